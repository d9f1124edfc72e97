package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/minirun/minirun/network"
)

// limit is how long the plugins of a network may take. A plugin that hangs is killed.
const limit = 2 * time.Minute

// Container is what a container wants of CNI networks: the file network.CNIFile.
type Container struct {
	Version  int      `json:"version"`
	Networks []string `json:"networks"`
	Aliases  []string `json:"aliases"`
	IPs      []string `json:"ips"`
	MAC      string   `json:"mac"`
	Servers  []string `json:"servers"`
	Searches []string `json:"searches"`
	Options  []string `json:"options"`
	Ports    []Port   `json:"ports"`
}

// Port is an entry of the capability portMappings.
type Port struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

// Error is an error with advice.
type Error struct {
	err  error
	hint string
}

func (e *Error) Error() string { return e.err.Error() }
func (e *Error) Unwrap() error { return e.err }

// Hint says what to do.
func (e *Error) Hint() string { return e.hint }

// used is what a network was added with.
type used struct {
	Config json.RawMessage `json:"config"`
	Path   []string        `json:"path"`
}

// A run is a container and its directory.
type run struct {
	dir, key string
	want     Container
}

func open(dir, key string) (*run, error) {
	b, err := os.ReadFile(filepath.Join(dir, network.CNIFile))
	if err != nil {
		return nil, err
	}
	r := &run{dir: dir, key: key}
	if err := json.Unmarshal(b, &r.want); err != nil {
		return nil, fmt.Errorf("record %q: %w", filepath.Join(dir, network.CNIFile), err)
	}
	if r.want.Version != 1 {
		return nil, fmt.Errorf("record %q has version %d, this minirun reads 1", filepath.Join(dir, network.CNIFile), r.want.Version)
	}
	return r, nil
}

// pluginPath is where plugins are.
func pluginPath() []string {
	if p := filepath.SplitList(os.Getenv("CNI_PATH")); len(p) > 0 {
		return p
	}
	return []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"}
}

func configDir() string {
	if d := os.Getenv("NETCONFPATH"); d != "" {
		return d
	}
	return "/etc/cni/net.d"
}

// load finds the configuration of a network: a list, or one plugin.
func load(name string) (*libcni.NetworkConfigList, error) {
	dir := configDir()
	list, err := libcni.LoadConfList(dir, name)
	var none libcni.NoConfigsFoundError
	var missing libcni.NotFoundError
	if errors.As(err, &none) || errors.As(err, &missing) || errors.Is(err, fs.ErrNotExist) {
		return nil, &Error{fmt.Errorf("network cni:%s: no configuration of that name in %q", name, dir), "the name is in the file (\"name\": ...), not that of the file; NETCONFPATH names another directory"}
	}
	if err != nil {
		return nil, fmt.Errorf("network cni:%s: %w", name, err)
	}
	return list, nil
}

func (r *run) cni(path []string) *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(path, filepath.Join(r.dir, "cni"), nil)
}

var badID = regexp.MustCompile(`[^a-zA-Z0-9_.\-]`)

func (r *run) runtime(i, pid int) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{ContainerID: badID.ReplaceAllString(r.key, "-"), IfName: "eth" + strconv.Itoa(i), Args: [][2]string{{"IgnoreUnknown", "1"}}}
	if pid > 0 {
		rt.NetNS = "/proc/" + strconv.Itoa(pid) + "/ns/net"
	}
	c := map[string]any{}
	if len(r.want.Aliases) > 0 {
		c["aliases"] = map[string][]string{r.want.Networks[i]: r.want.Aliases}
	}
	if len(r.want.Servers)+len(r.want.Searches)+len(r.want.Options) > 0 {
		c["dns"] = map[string][]string{"servers": r.want.Servers, "searches": r.want.Searches, "options": r.want.Options}
	}
	if i == 0 { // what is of the first network
		if len(r.want.Ports) > 0 {
			c["portMappings"] = r.want.Ports
		}
		if len(r.want.IPs) > 0 {
			c["ips"] = r.want.IPs
		}
		if r.want.MAC != "" {
			c["mac"] = r.want.MAC
		}
	}
	rt.CapabilityArgs = c
	return rt
}

// demands refuses what no plugin of the network would do, and would not say.
func (r *run) demands(name string, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
	for _, d := range []struct{ capability, what string }{{"portMappings", "publishes ports"}, {"ips", "takes an address (--ip)"}, {"mac", "takes a hardware address (--mac-address)"}} {
		if _, wanted := rt.CapabilityArgs[d.capability]; !wanted {
			continue
		}
		if !slices.ContainsFunc(list.Plugins, func(p *libcni.PluginConfig) bool { return p.Network.Capabilities[d.capability] }) {
			return &Error{fmt.Errorf("network cni:%s: none of its plugins %s", name, d.what), fmt.Sprintf("a plugin of the list needs \"capabilities\": {%q: true}", d.capability)}
		}
	}
	return nil
}

func (r *run) usedFile(i int) string { return filepath.Join(r.dir, fmt.Sprintf("cni-%d.json", i)) }

// Add attaches a container to its networks. dir is the directory of its record. On
// an error what was made stays until Del.
func Add(ctx context.Context, dir, key string, pid int) error {
	r, err := open(dir, key)
	if err != nil {
		return err
	}
	var ips []net.IP
	var dns types.DNS
	for i, name := range r.want.Networks {
		list, err := load(name)
		if err != nil {
			return err
		}
		rt := r.runtime(i, pid)
		if err := r.demands(name, list, rt); err != nil {
			return err
		}
		path := pluginPath()
		for _, p := range list.Plugins { // before the first of them runs
			if err := missing(name, p.Network.Type, path); err != nil {
				return err
			}
		}
		b, err := json.Marshal(used{list.Bytes, path})
		if err == nil {
			err = os.WriteFile(r.usedFile(i)+".tmp", b, 0o600)
		}
		if err == nil {
			err = os.Rename(r.usedFile(i)+".tmp", r.usedFile(i))
		}
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, limit)
		result, err := r.cni(path).AddNetworkList(ctx, list, rt)
		cancel()
		if err != nil {
			return fmt.Errorf("add network cni:%s: %w", name, err)
		}
		if result == nil {
			continue
		}
		now, err := types100.NewResultFromResult(result)
		if err != nil {
			return fmt.Errorf("network cni:%s: result of its plugins: %w", name, err)
		}
		for _, ip := range now.IPs {
			ips = append(ips, ip.Address.IP)
		}
		dns.Nameservers = append(dns.Nameservers, now.DNS.Nameservers...)
		dns.Search = append(dns.Search, now.DNS.Search...)
		dns.Options = append(dns.Options, now.DNS.Options...)
	}
	return r.files(ips, dns)
}

// Check asks the plugins whether everything is as they have made it.
func Check(ctx context.Context, dir, key string, pid int) error {
	return each(ctx, dir, key, pid, nil, "check", func(ctx context.Context, c *libcni.CNIConfig, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
		return c.CheckNetworkList(ctx, list, rt)
	})
}

// Del takes back what Add has made, all of it or what it had come to. It may be
// called again.
func Del(ctx context.Context, dir, key string, pid int, warn func(string)) error {
	return each(ctx, dir, key, pid, warn, "delete", func(ctx context.Context, c *libcni.CNIConfig, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
		return c.DelNetworkList(ctx, list, rt)
	})
}

// each goes through the networks that were added, the last one first.
func each(ctx context.Context, dir, key string, pid int, warn func(string), verb string, do func(context.Context, *libcni.CNIConfig, *libcni.NetworkConfigList, *libcni.RuntimeConf) error) error {
	r, err := open(dir, key)
	if err != nil {
		return err
	}
	var errs []error
	for i, name := range slices.Backward(r.want.Networks) {
		b, err := os.ReadFile(r.usedFile(i))
		if errors.Is(err, fs.ErrNotExist) {
			continue // never begun
		}
		var u used
		if err == nil && len(b) == 0 {
			continue // killed before a plugin ran
		}
		if err == nil {
			err = json.Unmarshal(b, &u)
		}
		var list *libcni.NetworkConfigList
		if err == nil {
			list, err = libcni.ConfListFromBytes(u.Config)
		}
		if err != nil {
			if warn != nil { // written in part: no plugin has run
				warn(fmt.Sprintf("network cni:%s: record of its configuration: %v", name, err))
				continue
			}
			errs = append(errs, err)
			continue
		}
		path := append(slices.Clone(u.Path), pluginPath()...)
		list.Plugins = slices.DeleteFunc(list.Plugins, func(p *libcni.PluginConfig) bool {
			err := missing(name, p.Network.Type, path)
			if err != nil && warn != nil { // or the container would stay for good
				warn(err.Error() + "; what it has made stays")
			}
			return err != nil && warn != nil
		})
		ctx, cancel := context.WithTimeout(ctx, limit)
		err = do(ctx, r.cni(path), list, r.runtime(i, pid))
		cancel()
		if err == nil {
			continue
		}
		err = fmt.Errorf("%s network cni:%s: %w", verb, name, err)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// missing reports a plugin that is in no directory of the path.
func missing(name, plugin string, path []string) error {
	var looked []string
	for _, dir := range path {
		file := filepath.Join(dir, plugin)
		if _, err := os.Stat(file); err == nil {
			return nil
		}
		if quoted := strconv.Quote(file); !slices.Contains(looked, quoted) {
			looked = append(looked, quoted)
		}
	}
	return &Error{fmt.Errorf("network cni:%s: plugin is missing: looked for %s", name, strings.Join(looked, ", ")), "Debian's package is containernetworking-plugins; CNI_PATH names other directories"}
}

// files tells the container its addresses and name servers. The files are mounted:
// they are changed and not replaced.
func (r *run) files(ips []net.IP, dns types.DNS) error {
	name, err := os.ReadFile(filepath.Join(r.dir, network.HostnameFile))
	if err != nil {
		return err
	}
	lines := ""
	for _, ip := range ips {
		lines += ip.String() + "\t" + strings.Join(append([]string{strings.TrimSpace(string(name))}, r.want.Aliases...), " ") + "\n"
	}
	f, err := os.OpenFile(filepath.Join(r.dir, network.HostsFile), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(lines)
	if err = errors.Join(err, f.Close()); err != nil || len(dns.Nameservers) == 0 || len(r.want.Servers) > 0 {
		return err
	}
	text := ""
	for _, s := range dns.Nameservers {
		if ip := net.ParseIP(s); ip != nil {
			text += "nameserver " + ip.String() + "\n"
		}
	}
	line := func(word string, given, list []string) {
		if len(given) > 0 {
			list = given
		}
		if len(list) > 0 && !strings.ContainsAny(strings.Join(list, ""), " \t\r\n\x00") {
			text += word + " " + strings.Join(list, " ") + "\n"
		}
	}
	line("search", r.want.Searches, dns.Search)
	line("options", r.want.Options, dns.Options)
	return os.WriteFile(filepath.Join(r.dir, network.ResolvFile), []byte(text), 0o644)
}
