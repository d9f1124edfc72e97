package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// cniSetup is a host in a network namespace with configurations and plugins of its own.
func cniSetup(t *testing.T) (h *imageHost, conf, plugins string) {
	t.Helper()
	h = netSetup(t)
	conf, plugins = t.TempDir(), t.TempDir()
	t.Setenv("NETCONFPATH", conf)
	t.Setenv("CNI_PATH", plugins+":/usr/lib/cni")
	// Debian's host-local would keep its leases on the host.
	write(t, filepath.Join(conf, "10-web.conflist"), `{
  "cniVersion": "1.0.0", "name": "web",
  "plugins": [
    {"type": "loopback"},
    {"type": "bridge", "bridge": "cni-web", "isGateway": true, "ipMasq": false, "hairpinMode": true,
     "ipam": {"type": "host-local", "dataDir": "`+conf+`/leases", "ranges": [[{"subnet": "10.99.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]},
     "dns": {"nameservers": ["10.99.0.53"], "search": ["cni.example"]}},
    {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}
  ]}`)
	return h, conf, plugins
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// cniLeases are the addresses that host-local has given.
func cniLeases(conf string) (list []string) {
	names, _ := filepath.Glob(conf + "/leases/web/10.*")
	for _, n := range names {
		list = append(list, filepath.Base(n))
	}
	return list
}

// The standard plugins: addresses, routes, a published port, files; and nothing is
// left of them.
func TestRootNetworkCNI(t *testing.T) {
	h, conf, _ := cniSetup(t)
	server := h.server("hello", "--network", "cni:web", "-p", "8080:80", "--hostname", "box", "--network-alias", "www")
	got := h.must("exec", server, "sh", "-c", "ip -4 a; ip r; cat /etc/hosts /etc/resolv.conf")
	for _, want := range []string{"inet 10.99.0.2/24", "default via 10.99.0.1 dev eth0", "10.99.0.2\tbox www\n", "nameserver 10.99.0.53\nsearch cni.example\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in the container:\n%s", want, got)
		}
	}
	if got := answer(t, "10.99.0.2:80") + answer(t, lanAddress+":8080"); got != "hello\nhello\n" {
		t.Errorf("the server answers %q", got)
	}
	if got := h.must("port", server); !strings.Contains(got, "80/tcp -> 0.0.0.0:8080") {
		t.Errorf("port prints %q", got)
	}
	h.refused("is taken", "run", "--rm", "--image", "base", "--network", "cni:web", "-p", "8080:80", h.id(), "true")
	if got := cniLeases(conf); len(got) != 1 {
		t.Errorf("leases while it runs: %q", got)
	}
	// The plugins are asked with the configuration of then.
	if err := os.Remove(filepath.Join(conf, "10-web.conflist")); err != nil {
		t.Fatal(err)
	}
	h.must("delete", "--force", server)
	h.noNetwork("after delete")
	if got := cniLeases(conf); len(got) != 0 {
		t.Errorf("leases after delete: %q", got)
	}
	if out, err := exec.Command("iptables-save", "-t", "nat").CombinedOutput(); err == nil && strings.Contains(string(out), "8080") {
		t.Errorf("portmap has left:\n%s", out)
	}
}

// cniPlugin is a plugin that writes down how it was called.
const cniPlugin = `#!/bin/sh
log=LOG
[ "$CNI_COMMAND" != VERSION ] || { echo '{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}'; exit; }
input=$(cat)
echo "$CNI_COMMAND @PLUGIN@ $CNI_IFNAME $input" | tr -d '\n\t ' >>$log
echo >>$log
case $CNI_COMMAND in
ADD) HOOK
  echo '{"cniVersion":"VERSION","interfaces":[],"ips":[],"dns":{}}' ;;
esac
`

func cniFake(t *testing.T, dir, name, log, version, hook string) {
	t.Helper()
	write(t, filepath.Join(dir, name), strings.NewReplacer("log=LOG", "log="+log, "@PLUGIN@", name, `"VERSION"`, `"`+version+`"`, "HOOK", hook).Replace(cniPlugin))
}

// The protocol, in each version: plugins in their order with the result of the one
// before, and backwards at the end.
func TestRootNetworkCNI_Protocol(t *testing.T) {
	h, conf, plugins := cniSetup(t)
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		log := filepath.Join(conf, version+".log")
		cniFake(t, plugins, "one", log, version, "")
		cniFake(t, plugins, "two", log, version, "")
		write(t, filepath.Join(conf, "20-chain.conflist"), `{"cniVersion": "`+version+`", "name": "chain", "plugins": [{"type": "one"}, {"type": "two", "capabilities": {"portMappings": true, "mac": true, "dns": true}}]}`)
		h.must("run", "--rm", "--image", "base", "--network", "cni:chain", "-p", "192.0.2.1:8053:53/udp", "--mac-address", "02:00:00:00:00:07", "--dns", "192.0.2.7", h.id(), "true")
		lines := strings.Split(strings.TrimSpace(readFile(t, log)), "\n")
		want := []string{"ADDoneeth0", "ADDtwoeth0", "DELtwoeth0", "DELoneeth0"}
		if len(lines) != len(want) {
			t.Fatalf("%s: the plugins were called like this: %q", version, lines)
		}
		for i := range want {
			if !strings.HasPrefix(lines[i], want[i]) {
				t.Errorf("%s: call %d is %q, want %s", version, i, lines[i], want[i])
			}
		}
		for _, part := range []string{`"prevResult"`, `"hostPort":8053`, `"containerPort":53`, `"protocol":"udp"`, `"hostIP":"192.0.2.1"`, `"mac":"02:00:00:00:00:07"`, `"servers":["192.0.2.7"]`} {
			if !strings.Contains(lines[1], part) {
				t.Errorf("%s: no %s in %s", version, part, lines[1])
			}
		}
		if strings.Contains(lines[0], "runtimeConfig") || strings.Contains(lines[0], "prevResult") {
			t.Errorf("%s: the first plugin, without capabilities, got %s", version, lines[0])
		}
		if version != "0.3.1" && !strings.Contains(lines[3], "prevResult") {
			t.Errorf("%s: DEL without the result of ADD: %s", version, lines[3])
		}
		h.noNetwork(version)
	}
}

// Failures say what and why, leave no container, and what a plugin has done before
// is taken back.
func TestRootNetworkCNI_Failures(t *testing.T) {
	h, conf, plugins := cniSetup(t)
	log := filepath.Join(conf, "log")
	cniFake(t, plugins, "good", log, "1.0.0", "")
	cniFake(t, plugins, "bad", log, "1.0.0", `echo '{"cniVersion":"1.0.0","code":7,"msg":"the cable is out","details":"of the wall"}'; exit 1`)
	for name, list := range map[string]string{
		"fails":   `{"type": "good"}, {"type": "bad"}`,
		"missing": `{"type": "good"}, {"type": "no-such-plugin"}`,
		"noports": `{"type": "good"}`,
	} {
		write(t, filepath.Join(conf, name+".conflist"), `{"cniVersion": "1.0.0", "name": "`+name+`", "plugins": [`+list+`]}`)
	}
	for _, tt := range []struct{ flags, want string }{
		{"--network cni:fails", "the cable is out; of the wall"},
		{"--network cni:missing", plugins + "/no-such-plugin"},
		{"--network cni:nothing", "no configuration of that name in"},
		{"--network cni:noports -p 80:80", "none of its plugins publishes ports"},
		{"--network cni:noports --ip 10.0.0.1", "none of its plugins takes an address"},
		{"--network cni:../x", "network name"},
		{"--network cni:noports --network cni:noports", "named twice"},
		{"--network cni:noports --network bridge", "a container has networks of CNI or others"},
		{"--network cni:noports --network host", "stand alone"},
	} {
		id := h.id()
		args := append([]string{"run", "--rm", "--image", "base"}, strings.Fields(tt.flags)...)
		h.refused(tt.want, append(args, id, "true")...)
		if r := h.do("state", id); r.Code == 0 {
			t.Errorf("%s: the container is there", tt.flags)
		}
		h.noNetwork(tt.flags)
	}
	// As often added as deleted.
	text := readFile(t, log)
	if add, del := strings.Count(text, "ADDgood"), strings.Count(text, "DELgood"); add != 1 || del != 1 {
		t.Errorf("%d times added, %d times deleted:\n%s", add, del, text)
	}
	// A plugin that goes while a container has its network does not keep the container.
	id := h.background("", "--network", "cni:noports")
	if err := os.Remove(filepath.Join(plugins, "good")); err != nil {
		t.Fatal(err)
	}
	if r := h.do("delete", "--force", id); r.Code != 0 || !strings.Contains(r.Stderr, "plugin is missing") {
		t.Errorf("delete without the plugin: %+v", r)
	}
	h.noNetwork("without the plugin")
}

// minirun is killed while a plugin adds: delete has it taken back.
func TestRootNetworkCNI_Killed(t *testing.T) {
	h, conf, plugins := cniSetup(t)
	log := filepath.Join(conf, "log")
	// The parent of the plugin is minirund, whose parent is minirun.
	cniFake(t, plugins, "killer", log, "1.0.0", `kill -KILL $(awk '/^PPid/{print $2}' /proc/$PPID/status) $PPID; sleep 0.1`)
	write(t, filepath.Join(conf, "k.conflist"), `{"cniVersion": "1.0.0", "name": "k", "plugins": [{"type": "killer"}]}`)
	id := h.id()
	if r := testenv.RunCmd(t, testenv.Command(t, h.command("create", "--image", "base", "--network", "cni:k", id, "true")...)); r.Code == 0 {
		t.Fatalf("it was not killed: %+v", r)
	}
	h.must("delete", "--force", id)
	h.noNetwork("after a kill")
	if text := readFile(t, log); !strings.Contains(text, "ADDkiller") || !strings.Contains(text, "DELkiller") {
		t.Errorf("the plugin was called like this: %s", text)
	}
}

// minirun is killed while it writes down what it wants of plugins: the container can
// be deleted, and its port be had again.
func TestRootNetworkCNI_Crash(t *testing.T) {
	h, conf, plugins := cniSetup(t)
	log := filepath.Join(conf, "log")
	cniFake(t, plugins, "fake", log, "1.0.0", "")
	write(t, filepath.Join(conf, "k.conflist"), `{"cniVersion": "1.0.0", "name": "k", "plugins": [{"type": "fake", "capabilities": {"portMappings": true}}]}`)
	record := false // was there once without the plugin
	for n := 1; n <= 60; n++ {
		id := h.id()
		// The first link is the lease of the port.
		_, reached := tracedRun(t, minirunItself, n, []uint64{unix.SYS_SYMLINKAT}, h.command("create", "--image", "base", "--network", "cni:k", "-p", "8080:80", id, "true")...)
		files, _ := filepath.Glob(h.store + "/networks/containers/*/cni.json")
		record = record || len(files) > 0
		stop := reapContainers(t)
		r := h.do("delete", "--force", id)
		stop()
		if r.Code != 0 || r.Stderr != "" || !reached {
			t.Fatalf("killed at call %d (%v): delete --force: %+v", n, reached, r)
		}
		h.noNetwork("killed at call " + strconv.Itoa(n))
		if _, err := os.Stat(log); err == nil || record && n > 20 {
			break
		}
	}
	if !record {
		t.Error("it was never killed with the file there")
	}
	h.must("image", "gc")
}

// minirun alone is killed while a plugin adds. What runs the plugins goes on, and
// delete waits for it: what it takes back is all that there will be.
func TestRootNetworkCNI_Orphan(t *testing.T) {
	h, conf, plugins := cniSetup(t)
	log := filepath.Join(conf, "log")
	cniFake(t, plugins, "slow", log, "1.0.0", `kill -KILL $(awk '/^PPid/{print $2}' /proc/$PPID/status)
  n=0; while [ $n -lt 20 ] && ! grep -q DELslow $log; do sleep 0.05; n=$((n+1)); done
  echo added >>$log`)
	write(t, filepath.Join(conf, "k.conflist"), `{"cniVersion": "1.0.0", "name": "k", "plugins": [{"type": "slow"}]}`)
	id := h.id()
	cmd := testenv.Command(t, h.command("create", "--image", "base", "--network", "cni:k", id, "true")...)
	if err := cmd.Run(); err == nil { // without pipes, whose end would be that of minirund
		t.Fatal("it was not killed")
	}
	h.must("delete", "--force", id)
	h.noNetwork("after a kill")
	text := readFile(t, log)
	if added, deleted := strings.Index(text, "added"), strings.Index(text, "DELslow"); added < 0 || deleted < added {
		t.Errorf("the plugin was called like this: %s", text)
	}
}
