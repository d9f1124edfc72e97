package archtest

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// arrows is a package and what it may import of this module. Tests of it may
// also import internal/testenv and what tests lists. "*" is every package.
type arrows struct {
	name    string
	imports string
	tests   string
	why     string
}

// graph is the picture in docs/architecture.md. A package that is not in it is
// an error: new packages get a line here and a place there.
var graph = []arrows{
	{
		"cmd/minirun", "cgroups container imagestore/reference imagestore/unpacked internal/bigstack internal/demo internal/initprog internal/jsonread internal/linux internal/monitor internal/netip network network/store runtime runtime/bundle", "",
		"flags, output and exit codes; cgroups and initprog for the types of their errors, imagestore/... for names and images",
	},
	{
		"cmd/minirund", "*",
		"imagestore/decompress imagestore/imagetest imagestore/registrytest", "everything that need not start fast",
	},

	{
		"container", "container/volume imagestore/unpacked internal/jsonread internal/linux internal/netip internal/seccomp network network/store network/usernet overlay runtime runtime/bundle", "",
		"composes one container; the packages it composes do not know each other",
	},
	{
		"container/inventory", "container/unpack imagestore overlay overlay/apply", "container imagestore/archive benchmarks/images imagestore/decompress imagestore/imagetest",
		"what a store holds, why, and on how much disk: sees both halves",
	},
	{"container/volume", "internal/jsonread internal/linux internal/safepath", "", "directories that outlive containers; knows snapshots by their names alone"},
	{
		"container/unpack", "imagestore imagestore/decompress imagestore/unpacked overlay overlay/apply", "imagestore/archive imagestore/imagetest",
		"from blobs to layers; apart from container, because minirun must not link decompressors and archive/tar",
	},

	{"imagestore", "imagestore/reference internal/linux", "benchmarks/images imagestore/decompress imagestore/imagetest", "bytes by digest: knows nothing of layers on disk or of containers"},
	{"imagestore/archive", "imagestore imagestore/decompress internal/linux", "imagestore/imagetest", "images from files"},
	{"imagestore/decompress", "imagestore/decompress/internal/gunzip", "imagestore/imagetest", "the only place that links a decompressor"},
	{"imagestore/decompress/internal/gunzip", "", "", "gzip, faster than the library that its tests compare it with"},
	{"imagestore/registry", "imagestore", "imagestore/decompress imagestore/imagetest imagestore/registrytest", "images from and to registries; linked into minirund alone"},
	{"imagestore/registrytest", "", "", "a registry for tests: knows nothing of the client that it tests"},
	{"imagestore/imagetest", "imagestore imagestore/decompress", "", "images for tests"},

	{"imagestore/reference", "", "", "names of images and of content: what minirun needs of imagestore without what that links"},
	{"imagestore/trust", "imagestore/reference imagestore/unpacked", "", "signatures and the policy about them: knows neither store nor registry; linked into minirund alone"},
	{"imagestore/unpacked", "imagestore/reference internal/jsonread internal/linux", "imagestore imagestore/archive imagestore/imagetest", "what a start has to know of an image: written by minirund, read by minirun"},

	{"overlay", "internal/linux internal/safepath", "", "layers and snapshots: a layer comes as a stream and a digest, whoever stored it"},
	{"overlay/erofs", "", "internal/kfeature internal/linux", "a file format: knows no stores, layers or system calls"},
	{"overlay/diff", "internal/linux internal/safepath", "", "compares trees; apart from overlay, because starting a container compares nothing"},
	{"overlay/apply", "internal/kfeature internal/linux internal/safepath overlay overlay/erofs", "", "apart from overlay, because starting a container unpacks nothing"},

	{
		"runtime", "cgroups cgroups/systemd internal/initprog internal/jsonread internal/linux internal/monitor internal/rtnetlink internal/seccomp namespaces rootfs runtime/bundle", "",
		"the OCI life cycle; never overlay or imagestore: a container from an image reaches it as a bundle and a descriptor",
	},
	{"runtime/bundle", "internal/jsonread internal/linux", "", "config.json: reading, checking, writing"},
	{"runtime/bundle/internal/gen", "", "", "generates the reader and the writer of config.json"},

	{"orchestrate/rollout", "", "", "pure: from objects and observations to actions; linked into minirund alone, like all of orchestrate"},
	{"orchestrate/clock", "", "", "durations, when the clock is set"},
	{"orchestrate/store", "", "", "objects on disk: knows metadata, and nothing of what kinds mean"},
	{"orchestrate/batch", "orchestrate/rollout", "", "pure: Jobs and CronJobs"},
	{"orchestrate/api", "orchestrate/batch orchestrate/podlife orchestrate/rollout orchestrate/store", "", "kinds: reading, defaults, validation; touches neither containers nor the network"},
	{"orchestrate/host", "orchestrate/store", "", "the Node object: looks at this host, and knows nothing of pods"},
	{"orchestrate/claims", "orchestrate/rollout", "", "pure: which volume is whose"},
	{"orchestrate/services", "", "", "pure: addresses, ports and endpoints of Services"},
	{"orchestrate/controller", "orchestrate/batch orchestrate/claims orchestrate/clock orchestrate/rollout orchestrate/services orchestrate/store", "orchestrate/api orchestrate/podlife", "carries out what rollout decides, on the store alone"},
	{
		"orchestrate/daemon", "*", "",
		"minirund as a process: makes the parts and lets them run; the parts do not know each other",
	},
	{
		"orchestrate/node", "cgroups container imagestore/reference imagestore/unpacked internal/initprog internal/linux internal/monitor internal/netip internal/rtnetlink internal/safepath network network/store orchestrate/clock orchestrate/podlife orchestrate/rest orchestrate/store runtime runtime/bundle",
		"imagestore/registrytest internal/kfeature orchestrate/api orchestrate/controller", "runs pods as containers: the only one of these that touches the host",
	},
	{"orchestrate/rest", "orchestrate/api orchestrate/merge orchestrate/store orchestrate/stream orchestrate/view", "orchestrate/rest/resttest", "the API of Kubernetes over HTTP: the store, and an interface to the node"},
	{"orchestrate/rest/resttest", "orchestrate/rest", "", "a node for tests of the API"},
	{"orchestrate/merge", "", "", "pure: patches and applied configurations"},
	{"orchestrate/compose", "", "orchestrate/api", "pure: objects from a Compose file"},
	{"orchestrate/client", "orchestrate/stream", "", "speaks to minirund over its socket"},
	{"orchestrate/stream", "", "", "the streams of a program over HTTP; knows no kinds"},
	{"orchestrate/view", "orchestrate/api orchestrate/store", "", "pure: objects as text"},
	{"orchestrate/proxy", "network/service network/watch orchestrate/services orchestrate/store", "orchestrate/api", "from Services and ready pods to the load balancer in the kernel"},
	{"orchestrate/podlife", "", "", "pure: restarts, probes and endings of one pod"},

	{"cgroups", "internal/linux", "", "does not know rootfs, namespaces or plans: it works from outside, on the host's files"},
	{"cgroups/systemd", "cgroups internal/dbus internal/linux", "", "asks systemd for the group; apart from cgroups, which never needs it"},
	{"namespaces", "internal/initprog internal/linux", "", "contributes steps to the plan"},
	{"rootfs", "internal/initprog", "", "contributes steps to the plan; touches nothing, so it needs no system calls of its own"},

	{"network", "internal/jsonread internal/linux internal/netip internal/nfnetlink internal/rtnetlink network/ipam network/loopback network/store", "network/service network/watch", "networks of containers: knows no images and no runtime; of a container it gets a namespace"},
	{"network/ipam", "internal/netip", "", "the arithmetic of addresses; touches nothing"},
	{"network/dns", "", "", "answers names: knows addresses and prefixes, and nothing of bridges or containers"},
	{"network/cni", "network", "", "runs the plugins of others; apart from network, because minirun must not link libcni"},
	{"network/names", "internal/netip network network/dns network/store", "", "joins records of networks and network/dns; of services it knows what a Source tells"},
	{"network/loopback", "internal/linux", "", "programs that lead ports of loopback elsewhere; knows cgroups and addresses, no containers"},
	{"network/usernet", "internal/initprog internal/jsonread internal/linux internal/netip network network/store", "", "networks of ordinary users by pasta and slirp4netns; knows a process and a directory, no runtime"},
	{"network/watch", "internal/linux internal/nfnetlink internal/rtnetlink", "", "hears of changes of rules; knows no networks and no services, only names of tables"},
	{"network/service", "internal/rtnetlink network/loopback network/watch", "", "the load balancer: knows addresses and nftables, and nothing of networks, containers or who wants a service"},
	{"network/store", "internal/jsonread internal/linux internal/netip internal/safepath network/ipam", "", "records of networks and of who has which address and port; knows no links and no rules"},

	{"internal/bigstack", "", "", "must be the first package to initialize, which one with imports would not be"},
	{"internal/archtest", "", "", "tests of the project as a whole"},
	{"internal/criu", "", "", "the program criu: knows a pid, a configuration and directories, and nothing of the runtime's records"},
	{"internal/dbus", "internal/linux", "", "messages to systemd; knows nothing of it"},
	{"internal/demo", "internal/linux", "", "the applets of the image minirun/demo, linked into minirun"},
	{"internal/denials", "internal/linux internal/seccomp", "", "reports what a filter denies; linked into minirund alone"},
	{"internal/doctor", "internal/kfeature", "", "what the host can do"},
	{
		"internal/features", "cgroups internal/kfeature internal/seccomp namespaces rootfs runtime", "",
		"asks those who read config.json what they know; linked into minirund alone",
	},
	{"internal/initprog", "internal/linux", "", "programs of system calls: knows no plan and no specification"},
	{"internal/jsonread", "", "", "a reader and writer of JSON without reflection"},
	{"internal/kfeature", "internal/linux", "", "kernel features as values"},
	{"internal/linux", "", "", "system calls with plain descriptors; the bottom"},
	{"internal/monitor", "internal/initprog internal/linux", "", "the process that stays with a container, and what reads its files; knows no records"},
	{"internal/netip", "", "", "addresses and subnets without the standard library's work before main"},
	{"internal/nfnetlink", "internal/linux internal/netip", "", "messages to nftables and connection tracking; knows no networks"},
	{"internal/rtnetlink", "internal/linux internal/netip", "", "a few requests about network interfaces; knows no containers"},
	{"internal/safepath", "internal/linux", "", "paths in hostile trees"},
	{"internal/seccomp", "", "", "a pure function from a profile to a filter"},
	{"internal/seccomp/gen", "", "", "generates the tables of system calls"},
	{"internal/testenv", "", "", "helpers of tests: must be usable by the tests of every package"},
	{"internal/testrun", "", "", "runs and counts the tests"},

	{"benchmarks", "", "", "drives built binaries from outside"},
	{"benchmarks/network", "", "", "drives built binaries from outside"},
	{"benchmarks/supervisor", "", "", "drives built binaries from outside"},
	{"benchmarks/images", "overlay overlay/apply", "", "drives built binaries from outside, but for mounts: those end with the process that makes them"},
	{"integration", "", "imagestore/registrytest integration/vm internal/kfeature", "drives the built binaries from outside: it sees what users see, and asks the kernel what it can"},
	{"integration/clients", "", "", "drives container engines of others that drive minirun"},
	{"integration/kills", "", "", "drives the built binaries, which it kills"},
	{"integration/vm", "integration/vm/guest", "", "a guest for tests"},
	{"integration/vm/guest", "", "", "process 1 of the guest"},
	{"integration/vm/cmd/vmrun", "integration/vm", "", "a command in the guest"},
}

func TestImportGraph(t *testing.T) {
	allowed := map[string]arrows{}
	for _, a := range graph {
		if _, twice := allowed[a.name]; twice {
			t.Errorf("%s is in the table twice", a.name)
		}
		if a.why == "" {
			t.Errorf("%s has no reason in the table", a.name)
		}
		allowed[a.name] = a
	}
	seen := map[string]bool{}
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		seen[name] = true
		a, ok := allowed[name]
		if !ok {
			t.Errorf("package %s is not in the table: add what it may import here, and its place to docs/architecture.md", name)
			continue
		}
		imports := strings.Fields(a.imports)
		if a.imports == "*" {
			imports = slices.Collect(maps.Keys(allowed))
		}
		check(t, a, p.Imports, imports)
		tests := append(strings.Fields(a.tests), "internal/testenv", name)
		check(t, a, append(p.TestImports, p.XTestImports...), append(tests, imports...))
	}
	for _, a := range graph {
		if !seen[a.name] {
			t.Errorf("package %s is in the table and does not exist", a.name)
		}
		for _, i := range append(strings.Fields(a.imports), strings.Fields(a.tests)...) {
			if _, ok := allowed[i]; !ok && i != "*" {
				t.Errorf("package %s may import %s, which does not exist", a.name, i)
			}
		}
	}
	if cycle := findCycle(allowed); cycle != "" {
		t.Errorf("the table allows a cycle: %s", cycle)
	}
}

func check(t *testing.T, a arrows, have, want []string) {
	t.Helper()
	slices.Sort(have)
	for _, i := range slices.Compact(have) {
		name, ours := strings.CutPrefix(i, module+"/")
		if ours && !slices.Contains(want, name) {
			t.Errorf("%s imports %s, which it may not (%s)", a.name, name, a.why)
		}
	}
}

// findCycle looks for a way from a package to itself.
func findCycle(graph map[string]arrows) string {
	const busy, done = 1, 2
	state := map[string]int{}
	var visit func(name, way string) string
	visit = func(name, way string) string {
		switch state[name] {
		case done:
			return ""
		case busy:
			return way + name
		}
		state[name] = busy
		for _, i := range strings.Fields(graph[name].imports) {
			if c := visit(i, way+name+" -> "); c != "" {
				return c
			}
		}
		state[name] = done
		return ""
	}
	for name := range graph {
		if c := visit(name, ""); c != "" {
			return c
		}
	}
	return ""
}

// orchestrators are the packages that know Kubernetes' types.
const orchestrators = "cmd/minirund orchestrate/api orchestrate/batch orchestrate/claims orchestrate/client orchestrate/clock orchestrate/controller orchestrate/daemon orchestrate/host orchestrate/node orchestrate/podlife orchestrate/proxy orchestrate/rest orchestrate/rollout orchestrate/services orchestrate/store"

// foreign are the modules of others, and which packages may import them outside
// of tests. Each has a sentence in docs/architecture.md.
var foreign = []struct{ path, users, why string }{
	{"github.com/opencontainers/runtime-spec/", "", "types without code"},
	{"golang.org/x/sys/", "", "system calls"},
	{"github.com/klauspost/compress/", "benchmarks/images imagestore/decompress imagestore/imagetest", "minirun must not link it"},
	{"github.com/BurntSushi/toml", "imagestore/registry", "hosts.toml"},
	{"github.com/urfave/cli/v2", "cmd/minirund", "its start costs more than minirun's"},
	{"github.com/google/nftables", "network/service", "rules of the kernel; minirun must not link it"},
	{"github.com/containernetworking/cni/", "network/cni", "runs plugins; links os/exec and encoding/json, which minirun must not"},
	{"github.com/miekg/dns", "network/dns", "messages of the DNS; minirun must not link it"},
	{"github.com/mdlayher/netlink", "network/service", "comes with google/nftables, which has it in its API"},
	{"k8s.io/api/", orchestrators + " " + apiPackages, "its start costs more than minirun's"},
	{"k8s.io/apimachinery/", orchestrators + " " + apiPackages, "its start costs more than minirun's"},
	{"go.yaml.in/yaml/v3", "orchestrate/api orchestrate/compose", "large, and nothing on the way to a container is YAML"},
	{"github.com/robfig/cron/v3", "orchestrate/batch", "schedules of CronJobs; minirun must not link it"},
	{"go.etcd.io/bbolt", "orchestrate/store", "a database; minirun's state is one small file for each container"},
	{"github.com/opencontainers/image-spec/", "none", "only tests compare our types with it"},
	{"github.com/opencontainers/go-digest", "none", "compiles regular expressions at start"},
	{"github.com/distribution/reference", "none", "compiles regular expressions at start; only tests compare with it"},
}

func TestForeignImports(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		for _, i := range p.Imports {
			if first, _, _ := strings.Cut(i, "/"); !strings.Contains(first, ".") || strings.HasPrefix(i, module) {
				continue
			}
			known := false
			for _, f := range foreign {
				if !strings.HasPrefix(i+"/", strings.TrimSuffix(f.path, "/")+"/") {
					continue
				}
				known = true
				if f.users != "" && !slices.Contains(strings.Fields(f.users), name) {
					t.Errorf("%s imports %s, which only %s may (%s)", name, i, f.users, f.why)
				}
			}
			if !known {
				t.Errorf("%s imports %s, a module that is not in the table: say here and in docs/architecture.md what it is for", name, i)
			}
		}
	}
}

// apiPackages are those of the API and of its clients, which know them too.
const apiPackages = "orchestrate/client orchestrate/merge orchestrate/rest/resttest orchestrate/view"
