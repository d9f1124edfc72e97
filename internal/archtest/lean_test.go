package archtest

import (
	"debug/elf"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
)

// heavy is what minirun must not link: every create, start and exec would pay
// for it. A name stands for the packages below it too.
var heavy = []struct{ path, why string }{
	{"net", "resolver, poller and hundreds of kilobytes; minirun talks to unix sockets by system calls"},
	{"net/http", "brings net, crypto/tls and tables of its own"},
	{"crypto/tls", "comes with net/http"},
	{"crypto/x509", "comes with net/http"},
	{"regexp", "patterns compiled at start cost more than a container's namespaces"},
	{"os/user", "reads the host's databases, and with cgo links libc"},
	{"os/exec", "minirun starts processes by initprog and by exec(2) alone"},
	{"crypto", "a dozen packages to initialize; nothing is hashed on the way to a container, see imagestore/unpacked"},
	{"hash", "comes with crypto"},
	{"encoding/json", "reflection; internal/jsonread reads and writes"},
	{"encoding/base64", "comes with encoding/json, and makes its tables at start"},
	{"encoding/hex", "comes with digests, which minirun does not compute"},
	{"text", "reflection, and the linker keeps every method"},
	{"html", "comes with templates"},
	{"time/tzdata", "a megabyte that minirun has no use for"},
	{"math/big", "comes with crypto"},
	{"math/rand", "seeds itself; getrandom(2) is one call"},
	{"log/slog", "minirun writes its log itself"},
	{"archive/tar", "unpacking is minirund's business"},
	{"compress", "unpacking is minirund's business"},
	{"flag", "minirun reads its flags itself"},
	{"log", "minirun writes its log itself"},
	{module + "/orchestrate", "brings the types of Kubernetes"},
	{module + "/imagestore", "hashes, and decodes JSON by reflection: minirun has imagestore/unpacked and imagestore/reference"},
	{"github.com/klauspost/compress", "unpacking is minirund's business"},
	{"github.com/urfave/cli", "with what it imports it takes longer to initialize than all of minirun"},
	{"github.com/opencontainers/go-digest", "compiles regular expressions at start"},
	{"github.com/distribution/reference", "compiles regular expressions at start"},
	{"github.com/containerd", "brings logging, protobuf and metrics, all initialized at start"},
	{module + "/network/dns", "names are answered by minirund"},
	{module + "/network/service", "services are minirund's business; nftables' library makes tables at start"},
	{"k8s.io", "registers its types at start"},
	{"go.yaml.in", "patterns and tables at start"},
	{"go.etcd.io/bbolt", "a database, with what it needs of net and fmt"},
}

func TestNoHeavyPackages(t *testing.T) {
	linked := list(t, []string{"CGO_ENABLED=0"}, "-deps", "-tags", testenv.BuildTags, "./cmd/minirun")
	if len(linked) < 50 {
		t.Fatalf("go list -deps names %d packages only", len(linked))
	}
	for _, p := range linked {
		if p.ImportPath == module+"/imagestore/unpacked" || p.ImportPath == module+"/imagestore/reference" {
			continue
		}
		for _, h := range heavy {
			if p.ImportPath == h.path || strings.HasPrefix(p.ImportPath, h.path+"/") {
				t.Errorf("minirun links %s: %s", p.ImportPath, h.why)
			}
		}
	}
}

// No code of ours may need cgo, whatever the environment says.
func TestNoCgo(t *testing.T) {
	for _, p := range list(t, []string{"CGO_ENABLED=1"}, "-deps", "-tags", testenv.BuildTags, "./cmd/minirun") {
		if p.ImportPath == "runtime/cgo" || len(p.CgoFiles) > 0 {
			t.Errorf("with CGO_ENABLED=1 minirun links %s, which uses cgo %v", p.ImportPath, p.CgoFiles)
		}
	}
	testenv.Supervisor(t)
	for _, path := range []string{testenv.Binary(t), testenv.Supervisor(t)} {
		f, err := elf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
				t.Errorf("%s is linked dynamically", path)
			}
		}
		if libs, _ := f.ImportedLibraries(); len(libs) > 0 {
			t.Errorf("%s needs %q", path, libs)
		}
		f.Close()
	}
}

// maxInit bounds what minirun's packages do before main, in milliseconds.
const maxInit = 0.25

// maxInitAllocs bounds how often they allocate, which no other program on the
// machine has a part in.
const maxInitAllocs = 33

// TestPackageInit takes the fastest of 20 starts: a busy machine makes starts
// slower, and never faster. The Go runtime is not counted, nor is
// internal/godebug, which reads the variable that makes the trace.
func TestPackageInit(t *testing.T) {
	best, worst, slowest, allocs := 1e9, "", 0.0, 0
	for range 20 {
		cmd := exec.Command(testenv.Binary(t), "version")
		cmd.Env = []string{"GODEBUG=inittrace=1"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if first := regexp.MustCompile(`(?m)^init (\S+/bigstack|math|errors|sync|syscall|time|os) `).FindStringSubmatch(string(out)); first == nil || first[1] != module+"/internal/bigstack" {
			t.Fatalf("internal/bigstack is not the first package to initialize:\n%s", out)
		}
		sum, n, most, mostTime := 0.0, 0, "", 0.0
		allocs = 0
		// init os @0.60 ms, 0.025 ms clock, 432 bytes, 9 allocs
		for _, m := range regexp.MustCompile(`(?m)^init (\S+) @\S+ ms, (\S+) ms clock, \d+ bytes, (\d+) allocs`).FindAllStringSubmatch(string(out), -1) {
			n++
			if m[1] == "runtime" || m[1] == "internal/godebug" {
				continue
			}
			ms, err := strconv.ParseFloat(m[2], 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += ms
			count, err := strconv.Atoi(m[3])
			if err != nil {
				t.Fatal(err)
			}
			allocs += count
			if ms > mostTime {
				most, mostTime = m[1], ms
			}
		}
		if n < 10 {
			t.Fatalf("the trace names %d packages only:\n%s", n, out)
		}
		if sum < best {
			best, worst, slowest = sum, most, mostTime
		}
	}
	t.Logf("package init takes %.3f ms, of which %s %.3f ms, and %d allocations", best, worst, slowest, allocs)
	if allocs > maxInitAllocs {
		t.Errorf("package init of minirun makes %d allocations, want at most %d: GODEBUG=inittrace=1 minirun version shows whose they are", allocs, maxInitAllocs)
	}
	if best > maxInit {
		t.Errorf("package init of minirun takes %.3f ms, want at most %.2f; %s takes most of it, %.3f ms", best, maxInit, worst, slowest)
	}
}
