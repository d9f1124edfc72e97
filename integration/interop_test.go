package integration

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
)

// interop has the trees that others make of an image.
type interop struct {
	t   *testing.T
	dir string // has "layout", an OCI layout

	names map[string][]string // of generated images: what must be there, in order
}

func newInterop(t *testing.T) *interop {
	t.Helper()
	dir, err := os.MkdirTemp("", "minirun-test-interop-") // podman takes no path with capital letters
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return &interop{t: t, dir: dir}
}

// in runs a script in a mount namespace of its own, with /run and /dev/shm of its
// own, and calls f for each line that it prints while its mounts are there: root
// leads to what the script sees.
func (x *interop) in(script string, f func(root, line string)) {
	t := x.t
	t.Helper()
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-euc",
		"mount -t tmpfs tmpfs /dev/shm; mount -t tmpfs tmpfs /run\n"+script)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + x.dir, "TMPDIR=" + x.dir, "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var words strings.Builder
	cmd.Stderr = &words
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		f(fmt.Sprintf("/proc/%d/root", cmd.Process.Pid), lines.Text())
		if _, err := in.Write([]byte{'\n'}); err != nil {
			break // the script has ended; Wait says how
		}
	}
	in.Close()
	_, _ = io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, words.String())
	}
}

var links = regexp.MustCompile(` links \d+ `)

// view is treeOf with the names that are one file, and not their number:
// overlayfs also counts those that an upper layer hides.
func (x *interop) view(root string) map[string]string {
	x.t.Helper()
	tree := treeOf(x.t, root)
	for path, line := range tree {
		tree[path] = links.ReplaceAllString(line, " ")
	}
	type file struct{ dev, ino uint64 }
	first := map[file]string{}
	err := filepath.WalkDir(root+"/", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return err
		}
		name := "/" + strings.TrimPrefix(strings.TrimPrefix(path, root), "/")
		if other, ok := first[file{st.Dev, st.Ino}]; ok {
			tree[name] += " is " + other
		} else {
			first[file{st.Dev, st.Ino}] = name
		}
		return nil
	})
	if err != nil {
		x.t.Fatal(err)
	}
	return tree
}

// compare unpacks the images of the layout by minirun in both ways, umoci and
// podman, and compares all that can be seen of them.
func (x *interop) compare(tags []string) {
	t := x.t
	t.Helper()
	if err := os.WriteFile(x.dir+"/policy.json", []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	want := map[string]map[string]string{}
	for _, tag := range tags {
		x.in(fmt.Sprintf("umoci unpack --image %[1]s/layout:%[2]s %[1]s/bundle >&2; echo %[1]s/bundle/rootfs; read ok", x.dir, tag), func(root, path string) {
			want[tag] = x.view(root + path)
		})
		if names, ok := x.names[tag]; ok {
			if got := slices.Sorted(maps.Keys(want[tag])); !slices.Equal(got, names) {
				t.Fatalf("image %s: umoci makes %q of it, which should be %q", tag, got, names)
			}
		} else if len(want[tag]) < 1000 {
			t.Fatalf("image %s: umoci makes %d files of it", tag, len(want[tag]))
		}
		if err := os.RemoveAll(x.dir + "/bundle"); err != nil {
			t.Fatal(err)
		}
	}
	all := "for tag in " + strings.Join(tags, " ") + "; do\n"
	same := func(who string) func(root, line string) {
		n := 0
		t.Cleanup(func() {
			if n != len(tags) && !t.Failed() {
				t.Errorf("%s: %d of %d images were compared", who, n, len(tags))
			}
		})
		return func(root, line string) {
			tag, path, _ := strings.Cut(line, " ")
			n++
			got := x.view(root + path)
			if who == "podman" {
				got["/"] = want[tag]["/"] // podman 4.3 leaves out what archives say of the root directory
			}
			sameTree(t, who+", image "+tag, got, want[tag])
		}
	}
	podman := fmt.Sprintf("podman --root %[1]s/podman --runroot %[1]s/podman.run --tmpdir %[1]s/podman.tmp --storage-driver overlay --cgroup-manager cgroupfs --events-backend none", x.dir)
	x.in(all+"id=$("+podman+" pull -q --signature-policy "+x.dir+"/policy.json oci:"+x.dir+"/layout:$tag)\nat=$("+podman+" image mount $id)\necho $tag $at; read ok\n"+
		podman+" image unmount $id >&2\ndone", same("podman"))
	testenv.Supervisor(t)
	for _, kind := range []string{"index", "extract"} {
		minirun := fmt.Sprintf("%s --root %s/state --store %[2]s/store-%s image", testenv.Binary(t), x.dir, kind)
		x.in(minirun+" load --quiet --unpacker "+kind+" "+x.dir+"/layout >&2\n"+all+"at=$("+minirun+" mount x:$tag $(mktemp -d))\necho $tag $at; read ok\ndone\n"+minirun+" unmount --all >&2", same("minirun, "+kind))
	}
}

// seeds is how many images TestRootInterop makes.
func seeds(t *testing.T) int {
	t.Helper()
	v := os.Getenv("MINIRUN_TEST_INTEROP_IMAGES")
	if v == "" {
		return 6
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("MINIRUN_TEST_INTEROP_IMAGES=%q is no number of images", v)
	}
	return n
}

// An image is the same files whoever unpacks it: generated images, by both ways
// of ours, umoci and podman. MINIRUN_TEST_INTEROP_IMAGES=100 makes more of them,
// MINIRUN_TEST_INTEROP_DEBOOTSTRAP=1 Debian systems too.
func TestRootInterop(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	n := seeds(t)
	for from := 0; from < n; from += 10 {
		x := newInterop(t)
		l := newLayout(t, x.dir+"/layout")
		var tags []string
		for seed := from; seed < min(from+10, n); seed++ {
			g := newImageGenerator(uint64(seed))
			var layers []layerBlob
			for range 1 + g.r.IntN(4) {
				layers = append(layers, l.layer(g.layer))
			}
			tag := fmt.Sprintf("seed-%d", seed)
			l.image(tag, layers...)
			tags = append(tags, tag)
			x.made(tag, g)
		}
		l.close()
		x.compare(tags)
		if t.Failed() {
			t.FailNow()
		}
	}
	if os.Getenv("MINIRUN_TEST_INTEROP_DEBOOTSTRAP") != "" {
		debootstrapped(t)
	}
}
