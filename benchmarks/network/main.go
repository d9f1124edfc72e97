// Command network measures what it costs to attach a container to a network and to
// detach it: minirun beside the CNI plugins bridge and portmap, called as a runtime
// calls them, and podman; interleaved in one run.
//
// It needs root. Everything happens in a network and a mount namespace of its own,
// with a /run in memory: nothing of the host is touched.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

type bench struct {
	rounds   int
	limit    time.Duration
	podman   bool
	dir      string
	minirun  string
	isolated bool
	number   int
}

func main() {
	var b bench
	flag.IntVar(&b.rounds, "n", 60, "rounds")
	flag.DurationVar(&b.limit, "limit", 4*time.Minute, "begin no round after this time")
	flag.BoolVar(&b.podman, "podman", true, "measure podman too")
	flag.BoolVar(&b.isolated, "isolated", false, "internal: in the private namespaces")
	flag.Parse()
	run := b.measure
	if !b.isolated {
		run = isolate
	}
	err := run()
	var exit *exec.ExitError
	if !b.isolated && errors.As(err, &exit) && exit.ExitCode() > 0 { // who has said why
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchmarks/network:", err)
		os.Exit(1)
	}
}

// isolate installs what is missing and starts the program again in namespaces of its own.
func isolate() error {
	if os.Geteuid() != 0 {
		return errors.New("root is needed")
	}
	var missing []string
	for _, p := range []struct{ file, pkg string }{
		{plugins + "/portmap", "containernetworking-plugins"},
		{"/usr/bin/podman", "podman"},
		{"/usr/lib/podman/netavark", "netavark"},
		{"/usr/bin/crun", "crun"},
		{"/usr/sbin/iptables", "iptables"},
		{"/usr/bin/busybox", "busybox-static"},
		{"/usr/bin/tar", "tar"},
	} {
		if _, err := os.Stat(p.file); err != nil {
			missing = append(missing, p.pkg)
		}
	}
	if len(missing) > 0 {
		cmd := exec.Command("apt-get", append([]string{"install", "-qy", "--no-install-recommends"}, missing...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("install %s: %w\n%s", strings.Join(missing, " "), err, out)
		}
	}
	cmd := exec.Command("/proc/self/exe", append([]string{"-isolated"}, os.Args[1:]...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	return cmd.Run()
}

const plugins = "/usr/lib/cni"

func command(args ...string) ([]byte, error) {
	cmd := exec.Command(args[0], args[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s%s", strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return out, err
}

func (b *bench) measure() error {
	var err error
	if b.minirun, err = filepath.Abs("bin/minirun"); err != nil {
		return err
	}
	// Go has made the mounts of the namespace private.
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount tmpfs on /run: %w", err)
	}
	// crun does not work where versions 1 and 2 are mounted beside one another.
	if err := syscall.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""); err != nil {
		return fmt.Errorf("mount cgroup2 on /sys/fs/cgroup: %w", err)
	}
	b.dir = "/run/bench"
	rootfs := b.dir + "/rootfs"
	for _, args := range [][]string{
		{"ip", "link", "set", "lo", "up"},
		{"mkdir", "-p", rootfs + "/bin", rootfs + "/etc", b.dir + "/cni", b.dir + "/podman/networks", "/run/lock"},
		{"cp", "/usr/bin/busybox", rootfs + "/bin/busybox"},
		{"ln", "-s", "busybox", rootfs + "/bin/true"},
		{"tar", "-C", rootfs, "-cf", b.dir + "/base.tar", "."},
		b.our("image", "import", "--quiet", b.dir+"/base.tar", "base"),
		b.our("network", "create", "web"),
	} {
		if _, err := command(args...); err != nil {
			return err
		}
	}
	if b.podman {
		if _, err := command(b.theirs("import", b.dir+"/base.tar", "base")...); err != nil {
			return err
		}
	}
	contenders := []contender{
		{"minirun none", b.runs("--network", "none")},
		{"minirun bridge", b.runs("--network", "web")},
		{"minirun bridge, port", b.runs("--network", "web", "-p", "8080:80")},
		{"CNI bridge", func() (time.Duration, error) { return b.cni("bridge") }},
		{"CNI bridge+portmap", func() (time.Duration, error) { return b.cni("bridge", "portmap") }},
	}
	if b.podman {
		contenders = append(contenders,
			contender{"podman none", b.podmanRuns("--network", "none")},
			contender{"podman bridge", b.podmanRuns("--network", "podman")},
			contender{"podman bridge, port", b.podmanRuns("--network", "podman", "-p", "8081:80")})
	}
	for _, c := range contenders { // bridges, rules and caches are there afterwards
		if _, err := c.once(); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	times := map[string][]float64{}
	start := time.Now()
	n := 0
	for n < b.rounds && time.Since(start) < b.limit {
		for _, i := range rand.Perm(len(contenders)) {
			c := contenders[i]
			d, err := c.once()
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			times[c.name] = append(times[c.name], float64(d.Microseconds())/1000)
		}
		n++
	}
	return b.report(n, times)
}

type contender struct {
	name string
	once func() (time.Duration, error)
}

func (b *bench) our(args ...string) []string {
	return append([]string{b.minirun, "--root", b.dir + "/minirun", "--store", b.dir + "/store"}, args...)
}

func (b *bench) theirs(args ...string) []string {
	return append([]string{
		"podman", "--root", b.dir + "/podman/root", "--runroot", b.dir + "/podman/run", "--tmpdir", b.dir + "/podman/tmp", "--network-config-dir", b.dir + "/podman/networks",
		"--cgroup-manager", "cgroupfs", "--events-backend", "none", "--storage-driver", "overlay", "--runtime", "crun",
	}, args...)
}

func timed(args []string) (time.Duration, error) {
	start := time.Now()
	_, err := command(args...)
	return time.Since(start), err
}

func (b *bench) runs(flags ...string) func() (time.Duration, error) {
	return func() (time.Duration, error) {
		b.number++
		return timed(append(b.our(append([]string{"run", "--rm", "--image", "base"}, flags...)...), "c"+strconv.Itoa(b.number), "true"))
	}
}

func (b *bench) podmanRuns(flags ...string) func() (time.Duration, error) {
	return func() (time.Duration, error) {
		return timed(append(b.theirs(append([]string{"run", "--rm", "--cgroups", "disabled", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"}, flags...)...), "base", "/bin/true"))
	}
}

// cni adds a network namespace to a network and takes it out again, with a list of
// plugins. The namespace is made and goes outside the time that is measured.
func (b *bench) cni(list ...string) (took time.Duration, err error) {
	b.number++
	holder := exec.Command("sleep", "1000")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := holder.Start(); err != nil {
		return 0, err
	}
	defer func() {
		_ = holder.Process.Kill()
		_ = holder.Wait()
	}()
	id := "cni" + strconv.Itoa(b.number)
	netns := "/proc/" + strconv.Itoa(holder.Process.Pid) + "/ns/net"
	confs := map[string]map[string]any{
		"bridge": {
			"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
			"ipam": map[string]any{"type": "host-local", "dataDir": b.dir + "/cni", "routes": []any{map[string]any{"dst": "0.0.0.0/0"}}, "ranges": []any{[]any{map[string]any{"subnet": "10.99.0.0/16"}}}},
		},
		"portmap": {
			"type": "portmap", "capabilities": map[string]any{"portMappings": true},
			"runtimeConfig": map[string]any{"portMappings": []any{map[string]any{"hostPort": 8082, "containerPort": 80, "protocol": "tcp"}}},
		},
	}
	var result any
	call := func(plugin, verb string) error {
		conf := confs[plugin]
		conf["cniVersion"], conf["name"] = "1.0.0", "bench"
		if result != nil {
			conf["prevResult"] = result
		} else {
			delete(conf, "prevResult")
		}
		in, err := json.Marshal(conf)
		if err != nil {
			return err
		}
		cmd := exec.Command(filepath.Join(plugins, plugin))
		cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+id, "CNI_NETNS="+netns, "CNI_IFNAME=eth0", "CNI_PATH="+plugins)
		cmd.Stdin = bytes.NewReader(in)
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("%s %s: %w\n%s", plugin, verb, err, out)
		}
		if verb == "ADD" {
			result = nil
			return json.Unmarshal(out, &result)
		}
		return nil
	}
	start := time.Now()
	for _, plugin := range list {
		if err := call(plugin, "ADD"); err != nil {
			return 0, err
		}
	}
	for _, plugin := range slices.Backward(list) {
		if err := call(plugin, "DEL"); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	if n == 0 {
		return 0
	}
	return (v[(n-1)/2] + v[n/2]) / 2
}

// difference is the median of what a takes longer than b in the same round.
func difference(a, b []float64) float64 {
	d := make([]float64, min(len(a), len(b)))
	for i := range d {
		d[i] = a[i] - b[i]
	}
	return median(d)
}

func (b *bench) report(n int, times map[string][]float64) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "attach and detach, n=%d, in ms\n\nwhat\tmedian of all\tmedian of the network's part\n", n)
	cost := map[string]float64{}
	row := func(name, base string) {
		v := times[name]
		if len(v) == 0 {
			return
		}
		if base == "" {
			fmt.Fprintf(w, "%s\t%.1f\t\n", name, median(v))
			return
		}
		cost[name] = median(v)
		if base != "itself" {
			cost[name] = difference(v, times[base])
		}
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\n", name, median(v), cost[name])
	}
	row("minirun none", "")
	row("minirun bridge", "minirun none")
	row("minirun bridge, port", "minirun none")
	row("CNI bridge", "itself")
	row("CNI bridge+portmap", "itself")
	row("podman none", "")
	row("podman bridge", "podman none")
	row("podman bridge, port", "podman none")
	fmt.Fprintln(w)
	for _, pair := range [][2]string{
		{"minirun bridge", "CNI bridge"},
		{"minirun bridge, port", "CNI bridge+portmap"},
		{"minirun bridge", "podman bridge"},
		{"minirun bridge, port", "podman bridge, port"},
	} {
		if theirs := cost[pair[1]]; theirs > 0 {
			fmt.Fprintf(w, "%s / %s\t%.2f\t\n", pair[0], pair[1], cost[pair[0]]/theirs)
		}
	}
	return w.Flush()
}
