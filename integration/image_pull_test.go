package integration

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/minirun/minirun/imagestore/registrytest"
	"github.com/minirun/minirun/internal/testenv"
	"golang.org/x/sys/unix"
)

// pullSource is a registry with one image: the test's root file system and a
// layer that does not compress.
type pullSource struct {
	*registrytest.Server
	name   string
	big    string // digest of the big layer
	size   int64  // of the big layer
	blobs  int64  // bytes of all
	config []byte
	sizes  map[string]int64 // of all blobs, by digest
}

func newPullSource(t *testing.T, noise int) *pullSource {
	t.Helper()
	// Nobody's logins and no proxies.
	for _, v := range []string{"DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"} {
		t.Setenv(v, t.TempDir())
	}
	s := &pullSource{Server: registrytest.New(t, registrytest.Options{}), sizes: map[string]int64{}}
	random := make([]byte, noise)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(random)
	plain := [][]byte{imageRootfs(t), imageLayer(t, imageEntry{name: "noise", data: string(random)})}
	blobs := [][]byte{imageGzip(t, plain[0]), plain[1]}
	b := &imageBlobs{layers: plain, config: map[string]any{"Cmd": []string{"sh"}}}
	s.config = b.configBlob(t)
	const prefix = "application/vnd.oci.image."
	var layers []map[string]any
	for i, l := range blobs {
		d := s.AddBlob("test/app", l)
		layers = append(layers, map[string]any{"mediaType": prefix + "layer.v1.tar" + []string{"+gzip", ""}[i], "digest": d, "size": len(l)})
		s.blobs += int64(len(l))
		s.big, s.size = d, int64(len(l))
		s.sizes[d] = s.size
	}
	config := map[string]any{"mediaType": prefix + "config.v1+json", "digest": s.AddBlob("test/app", s.config), "size": len(s.config)}
	s.blobs += int64(len(s.config))
	s.sizes[imageDigest(s.config)] = int64(len(s.config))
	s.AddManifest("test/app", prefix+"manifest.v1+json", imageJSON(t, map[string]any{
		"schemaVersion": 2, "mediaType": prefix + "manifest.v1+json", "config": config, "layers": layers,
	}), "v1")
	s.name = s.Host() + "/test/app:v1"
	return s
}

// whole wants the image to be there and to run, and nothing half done in the store.
func (h *imageHost) whole(name, when string) {
	h.t.Helper()
	if r := h.do("run", "--pull", "never", "--rm", "--image", name, h.id(), "sh", "-c", "ls -l /noise | wc -l"); r.Code != 0 || r.Stdout != "1\n" {
		h.t.Errorf("%s: run: %+v", when, r)
	}
	if r := h.do("image", "verify", name); r.Code != 0 {
		h.t.Errorf("%s: verify: %+v", when, r)
	}
	if left := h.entries("partial"); len(left) > 0 {
		h.t.Errorf("%s: partial has %q", when, left)
	}
	h.clean(when)
}

func TestRootRunPull(t *testing.T) {
	h := imageSetup(t)
	src := newPullSource(t, 1000)
	run := func(more ...string) testenv.Result {
		return h.do(append(append([]string{"run", "--rm"}, more...), "--image", src.name, h.id(), "echo", "runs")...)
	}
	if r := run("--pull", "never"); r.Code != 1 || !strings.Contains(r.Stderr, `image "`+src.name+`" does not exist`) {
		t.Errorf("never: %+v", r)
	}
	if n := len(src.Requests()); n != 0 {
		t.Errorf("never: %d requests", n)
	}
	if r := h.do("explain", "--image", src.name); r.Code != 1 || len(src.Requests()) != 0 {
		t.Errorf("explain: %+v, %d requests", r, len(src.Requests()))
	}
	if r := run(); r.Code != 0 || r.Stdout != "runs\n" || !strings.Contains(r.Stderr, "pulled "+src.name) {
		t.Errorf("missing: %+v", r)
	}
	n := len(src.Requests())
	for _, flags := range [][]string{nil, {"--pull", "missing"}, {"--pull=never"}} {
		if r := run(flags...); r.Code != 0 || r.Stdout != "runs\n" || r.Stderr != "" || len(src.Requests()) != n {
			t.Errorf("%q with the image there: %+v, %d requests", flags, r, len(src.Requests())-n)
		}
	}
	if r := run("--pull", "always"); r.Code != 0 || r.Stdout != "runs\n" || !strings.Contains(r.Stderr, "up to date: "+src.name) || len(src.Requests()) != n+1 {
		t.Errorf("always: %+v, %d requests, want one", r, len(src.Requests())-n)
	}
	// What goes wrong is said once, and in the log, too.
	log := filepath.Join(t.TempDir(), "log")
	r := testenv.Run(t, h.command("--log", log, "run", "--image", src.Host()+"/test/none", h.id(), "true")...)
	if r.Code != 1 || strings.Count(r.Stderr, "minirun:") != 1 || !strings.Contains(r.Stderr, "404 not found") || !strings.Contains(readFile(t, log), "404 not found") {
		t.Errorf("none: %+v, log %q", r, readFile(t, log))
	}
	src.Fail(registrytest.Fault{Method: http.MethodHead, Path: "/", Status: 403})
	if r := run("--pull", "always"); r.Code != 1 || r.Stdout != "" {
		t.Errorf("always, without the registry: %+v", r)
	}
	h.refused("want always, missing or never", "run", "--pull", "sometimes", "--image", src.name, h.id())
	h.refused("--pull needs --image", "run", "--pull", "never", h.id())
	h.refused("does not exist", "run", "--image", "sha256:"+strings.Repeat("0", 64), h.id())
	h.whole(src.name, "at the end")
}

// pullProcess starts minirun pull as a process of its own.
func (h *imageHost) pullProcess(name string) (wait func() testenv.Result, kill func()) {
	h.t.Helper()
	cmd := testenv.Command(h.t, h.command("pull", "--progress", "none", name)...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	wait = func() testenv.Result {
		_ = cmd.Wait()
		return testenv.Result{Code: cmd.ProcessState.ExitCode(), Stdout: out.String(), Stderr: errOut.String()}
	}
	return wait, func() { _ = cmd.Process.Signal(unix.SIGKILL) }
}

// partial is how many bytes interrupted or running transfers have.
func (h *imageHost) partial() (n int64) {
	for _, name := range h.entries("partial") {
		if st, err := os.Stat(filepath.Join(h.store, "partial", name)); err == nil {
			n += st.Size()
		}
	}
	return n
}

// A pull is killed when 90 % have come. The next one fetches the rest, and with
// it at most 12 % of all.
func TestRootPullKilledAndResumed(t *testing.T) {
	h := imageSetup(t)
	src := newPullSource(t, 4<<20)
	src.Fail(registrytest.Fault{Path: src.big, Stall: int(src.size * 9 / 10), Times: 1})
	wait, kill := h.pullProcess(src.name)
	want := src.blobs - src.size + src.size*9/10
	eventually(t, "all but 10 % of the layer is there", func() bool { return h.partial() == want })
	kill()
	if r := wait(); r.Code != -1 {
		t.Fatalf("killed: %+v", r)
	}
	if r := h.do("image", "list", "--quiet"); r.Stdout != "" {
		t.Errorf("list after the kill: %+v", r)
	}
	first := src.BlobBytes()
	src.Reset()
	h.must("pull", "--progress", "none", src.name)
	if again := first + src.BlobBytes() - src.blobs; again > src.blobs*2/100 || src.BlobBytes() > src.blobs*12/100 {
		t.Errorf("%d of %d bytes were sent after the kill, %d twice", src.BlobBytes(), src.blobs, again)
	}
	h.must("image", "gc") // what the killed one left of its unpacking
	h.whole(src.name, "after the second pull")
}

// Processes that want the same image fetch it once, also when the one that does
// is killed.
func TestRootPullTogether(t *testing.T) {
	h := imageSetup(t)
	src := newPullSource(t, 1<<20)
	src.Fail(registrytest.Fault{Path: src.big, Stall: 500 << 10, Times: 1})
	firstWait, kill := h.pullProcess(src.name)
	want := src.blobs - src.size + 500<<10
	eventually(t, "the first one has got stuck", func() bool { return h.partial() == want })
	var wg sync.WaitGroup
	for range 20 {
		wait, _ := h.pullProcess(src.name)
		wg.Go(func() {
			if r := wait(); r.Code != 0 {
				t.Errorf("%+v", r)
			}
		})
	}
	eventually(t, "all have asked for the tag", func() bool { return src.Count("HEAD", "manifests/v1") == 21 })
	kill()
	firstWait()
	wg.Wait()
	if more := src.BlobBytes() - src.blobs; more > 64<<10 {
		t.Errorf("%d bytes of blobs were sent for an image of %d", src.BlobBytes(), src.blobs)
	}
	h.must("image", "gc") // what the killed one left, if all others had begun before
	h.whole(src.name, "at the end")
}

// A pull is killed at system calls spread over all of it. The store is whole
// whatever had come; the next pull works, what it does not fetch again is used,
// and gc leaves nothing.
func TestRootImageCrashPull(t *testing.T) {
	h := imageSetup(t)
	src := newPullSource(t, 300<<10)
	calls := []uint64{unix.SYS_MKDIRAT, sysMkdir}
	points, used := 0, 0
	for n := 1; ; {
		if err := os.RemoveAll(h.store); err != nil {
			t.Fatal(err)
		}
		src.Reset()
		_, reached := tracedRun(t, minirunItself, n, calls, h.command("pull", "--progress", "none", src.name)...)
		what := "pull killed at call " + strconv.Itoa(n)
		points++
		r := h.do("image", "list")
		if r.Code != 0 || r.Stderr != "" {
			t.Errorf("%s: list: %+v", what, r)
		}
		if strings.Contains(r.Stdout, src.Host()) { // it has its name: so it is complete
			if r := h.do("image", "verify", src.name); r.Code != 0 {
				t.Errorf("%s: verify: %+v", what, r)
			}
		}
		left := map[string]int64{} // what is there of each blob
		for _, name := range h.entries("partial") {
			if st, err := os.Stat(filepath.Join(h.store, "partial", name)); err == nil && st.Size() > 0 {
				left[strings.Replace(name, "-", ":", 1)] = st.Size()
			}
		}
		src.Reset()
		h.must("pull", "--progress", "none", src.name)
		for _, r := range src.Requests() {
			_, digest, _ := strings.Cut(r.Path, "/blobs/")
			if n := left[digest]; n > 0 && r.Range != "bytes="+strconv.FormatInt(n, 10)+"-" {
				t.Errorf("%s: %d bytes of %s are there, and the range %q was asked for", what, n, digest, r.Range)
			}
			if n > 0 {
				used++
			}
		}
		h.must("image", "gc") // of the unpacking that was interrupted
		h.whole(src.name, what)
		if points%4 == 0 {
			h.must("image", "rm", src.name)
			h.must("image", "gc")
			for _, dir := range []string{"blobs/sha256", "overlay/layers", "partial", "unpacked"} {
				if left := h.entries(dir); len(left) > 0 {
					t.Errorf("%s: left after rm and gc: %s has %q", what, dir, left)
				}
			}
		}
		if t.Failed() {
			t.Fatal(what)
		}
		if !reached {
			break
		}
		n += 1 + n/4
	}
	t.Logf("%d crash points, parts of %d blobs were used", points, used)
	if points < 10 {
		t.Errorf("only %d crash points", points)
	}
}
