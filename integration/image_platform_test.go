package integration

import (
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/minirun/minirun/imagestore/registrytest"
	"golang.org/x/sys/unix"
)

// addIndex gives the image of the registry an index that has it for this host,
// and the same for s390x.
func (s *pullSource) addIndex(t *testing.T) (name string) {
	t.Helper()
	const oci = "application/vnd.oci.image."
	config := []byte(strings.Replace(string(s.config), `"`+runtime.GOARCH+`"`, `"s390x"`, 1))
	if string(config) == string(s.config) {
		t.Fatalf("the config %s names no architecture", s.config)
	}
	mediaType, body, ok := s.Manifest("test/app", "v1")
	if !ok {
		t.Fatal("no manifest")
	}
	foreign := []byte(strings.Replace(string(body), imageDigest(s.config), s.AddBlob("test/app", config), 1))
	foreign = []byte(strings.Replace(string(foreign), sizeText(len(s.config)), sizeText(len(config)), 1))
	entry := func(b []byte, arch string) map[string]any {
		return map[string]any{
			"mediaType": mediaType, "digest": s.AddManifest("test/app", mediaType, b), "size": len(b),
			"platform": map[string]any{"os": "linux", "architecture": arch},
		}
	}
	s.AddManifest("test/app", oci+"index.v1+json", imageJSON(t, map[string]any{
		"schemaVersion": 2, "mediaType": oci + "index.v1+json", "manifests": []any{entry(body, runtime.GOARCH), entry(foreign, "s390x")},
	}), "many")
	return s.Host() + "/test/app:many"
}

func sizeText(n int) string { return `"size":` + strconv.Itoa(n) }

// fillDisk leaves about so many bytes of a file system free.
func fillDisk(t *testing.T, dir, name string, leave int64) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Error(err)
		return
	}
	if err := os.WriteFile(name, make([]byte, max(int64(st.Bavail)*st.Bsize-leave, 0)), 0o600); err != nil {
		t.Error(err)
	}
}

// An index that was pulled for another platform only: run says so, and which one;
// a pull without a word brings what is missing.
func TestRootRunOtherPlatform(t *testing.T) {
	h := imageSetup(t)
	src := newPullSource(t, 1000)
	name := src.addIndex(t)
	h.must("pull", "--quiet", "--platform", "linux/s390x", name)
	h.refused(`image "`+name+`" is here for linux/s390x only, this host runs linux/`+runtime.GOARCH, "run", "--image", name, h.id(), "true")
	h.refused("hint: the one for linux/"+runtime.GOARCH+" comes with: minirun pull "+name, "image", "unpack", name)
	h.must("pull", "--quiet", name)
	host := "linux/" + runtime.GOARCH
	if got := h.must("run", "--rm", "--platform", host, "--image", name, h.id(), "echo", "runs"); got != "runs\n" {
		t.Errorf("run: %q", got)
	}
	h.refused("this host runs "+host, "run", "--platform", "linux/s390x", "--image", name, h.id(), "true")
	h.refused("this host runs "+host, "run", "--platform", "windows/"+runtime.GOARCH, "--image", name, h.id(), "true")
	h.refused("leave it out", "run", "--platform", host+"/v99", "--image", name, h.id(), "true")
	h.refused("want OS/ARCHITECTURE", "run", "--platform", runtime.GOARCH, "--image", name, h.id(), "true")
	h.refused("--platform needs --image", "run", "--platform", host, h.id())
}

// pull --unpacker extract makes directories of the layers.
func TestRootPullUnpacker(t *testing.T) {
	h := imageSetup(t)
	src := newPullSource(t, 1000)
	h.must("pull", "--quiet", "--unpacker", "extract", src.name)
	found := 0
	for _, l := range h.entries("overlay/layers") {
		_ = filepath.WalkDir(filepath.Join(h.store, "overlay/layers", l), func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Name() == "busybox" && d.Type().IsRegular() {
				found++
			}
			return nil
		})
	}
	if found != 1 {
		t.Errorf("%d extracted layers have busybox, want 1", found)
	}
	h.whole(src.name, "extracted")
	h.refused("--unpacker", "pull", "--unpacker", "none", src.name)
}

// The disk gets full while a layer comes, and while one is unpacked: one clear
// error, what has come stays for the next pull and nothing else does.
func TestRootPullDiskFull(t *testing.T) {
	h := imageSetup(t)
	src := newPullSource(t, 2<<20)
	disk := filepath.Join(t.TempDir(), "disk")
	imageDisk(t, disk, "size=1m")
	h.store = filepath.Join(disk, "store")
	sound := func(when string) {
		t.Helper()
		if l := h.entries("ingest"); len(l) > 0 {
			t.Errorf("%s: ingest has %q", when, l)
		}
		if n := h.partial(); n > src.blobs {
			t.Errorf("%s: partial has %d bytes, the image has %d", when, n, src.blobs)
		}
		if got := h.must("image", "list", "--quiet"); got != "" {
			t.Errorf("%s: list: %q", when, got)
		}
	}
	full := func(when, want string, flags ...string) {
		t.Helper()
		r := h.do(append(append([]string{"pull", "--progress", "none"}, flags...), src.name)...)
		if r.Code != 1 || !strings.Contains(r.Stderr, "no space left on device") || !strings.Contains(r.Stderr, want) || !strings.Contains(r.Stderr, "hint: free space in the store") ||
			strings.Count(r.Stderr, "minirun:") != 1 {
			t.Errorf("%s: %+v", when, r)
		}
		if first := when == "too small"; first != strings.Contains(r.Stderr, "more have to be fetched") {
			t.Errorf("%s: %s", when, r.Stderr)
		}
		sound(when)
	}
	// Before it begins: the image does not fit, and no layer is asked for.
	full("too small", "more have to be fetched")
	if n := src.Count("GET", "blobs/"+src.big); n != 0 {
		t.Errorf("the big layer was asked for %d times", n)
	}

	// There is room, until somebody else takes it when the big layer is asked for.
	imageResize(t, disk, "size=16m")
	ballast := filepath.Join(disk, "ballast")
	src.Fail(registrytest.Fault{Path: src.big, Do: func(*http.Request) { fillDisk(t, disk, ballast, 512<<10) }})
	full("while it comes", strings.TrimPrefix(src.big, "sha256:"), "--no-unpack", "--parallel", "1")
	src.Heal()
	had := h.partial()
	if had < 64<<10 {
		t.Errorf("of what came %d bytes are kept", had)
	}

	// Now the blobs find room, but not what is unpacked beside them; which of the two comes too late is a matter of luck.
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	src.Reset()
	imageResize(t, disk, "size=4m")
	if src.blobs > 7<<19 {
		t.Fatalf("the image has %d bytes: choose another size of the disk", src.blobs)
	}
	full("while it is unpacked", "")
	if got := src.BlobBytes(); got > src.blobs-had {
		t.Errorf("%d bytes were fetched, %d of %d were there", got, had, src.blobs)
	}

	had = h.partial()
	src.Reset()
	imageResize(t, disk, "size=64m")
	h.must("pull", "--progress", "none", src.name)
	if got := src.BlobBytes(); got > src.blobs-had {
		t.Errorf("at the end %d bytes were fetched, %d of %d were there", got, had, src.blobs)
	}
	h.must("image", "gc")
	h.whole(src.name, "with room")
}
