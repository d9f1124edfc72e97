package main

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/decompress"
	"github.com/minirun/minirun/imagestore/imagetest"
	"github.com/minirun/minirun/overlay"
	"github.com/minirun/minirun/overlay/apply"
	"golang.org/x/sys/unix"
)

// minirun runs a command line against the store and returns what came out.
func minirun(t *testing.T, store string, stdin io.Reader, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	if stdin == nil {
		stdin = strings.NewReader("")
	}
	code = run(context.Background(), append([]string{"minirund", "--store", store}, args...), stdin, &o, &e)
	return code, o.String(), e.String()
}

// ok is minirun for a command that must succeed silently on standard error.
func ok(t *testing.T, store string, args ...string) string {
	t.Helper()
	code, out, errOut := minirun(t, store, nil, args...)
	if code != 0 || errOut != "" {
		t.Fatalf("minirun %q: status %d, %s", args, code, errOut)
	}
	return out
}

// fails is minirun for a command that must fail; it returns what it says.
func fails(t *testing.T, store string, stdin io.Reader, args ...string) string {
	t.Helper()
	code, out, errOut := minirun(t, store, stdin, args...)
	if code != 1 || out != "" {
		t.Fatalf("minirun %q: status %d, standard output %q, want status 1 and none", args, code, out)
	}
	for line := range strings.Lines(errOut) {
		if !strings.HasPrefix(line, "minirun: ") && !strings.HasPrefix(line, "hint: ") {
			t.Errorf("minirun %q: line %q has neither prefix", args, line)
		}
	}
	return errOut
}

func image(t *testing.T, name, content string) (*imagetest.Built, string) {
	t.Helper()
	b := imagetest.Build(t, imagetest.Image{
		Names:  []string{name},
		Layers: []imagetest.Layer{{Tar: imagetest.Files(t, "base", "base"), Format: decompress.Gzip}, {Tar: imagetest.Files(t, "f", content)}},
		Config: imagestore.Config{Created: "2026-01-02T03:04:05.678Z"},
	})
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(path, imagetest.Archive(t, imagetest.DockerArchive(t, b)), 0o600); err != nil {
		t.Fatal(err)
	}
	return b, path
}

func TestLoadListRemove(t *testing.T) {
	store := filepath.Join(t.TempDir(), "store")
	b, path := image(t, "test/one:1", "one")
	id := b.Config.Digest.Short()
	if got := ok(t, store, "image", "list"); got != "NAME  ID  PLATFORM  CREATED  SIZE\n" {
		t.Errorf("empty list: %q", got)
	}
	if got := ok(t, store, "images", "--format", "json"); got != "[]\n" {
		t.Errorf("empty list as JSON: %q", got)
	}
	for _, args := range [][]string{{path}, {"-i", path}, {"--input", path}} {
		if got := ok(t, store, append([]string{"image", "load", "--no-unpack"}, args...)...); got != "loaded test/one:1 "+id+"\n" {
			t.Errorf("load %q prints %q", args, got)
		}
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if code, out, errOut := minirun(t, store, f, "image", "load", "-q", "--no-unpack"); code != 0 || out != string(b.Config.Digest)+"\n" || errOut != "" {
		t.Errorf("load from a pipe: %d, %q, %q", code, out, errOut)
	}
	list := ok(t, store, "image", "list")
	lines := strings.Split(strings.TrimSpace(list), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[1], "test/one:1  "+id+"  "+imagestore.HostPlatform().String()+"  2026-01-02 03:04  ") {
		t.Errorf("list:\n%s", list)
	}
	if got := ok(t, store, "images"); got != list {
		t.Errorf("images differs from image list:\n%s", got)
	}
	if got := ok(t, store, "images", "-q"); got != id+"\n" {
		t.Errorf("images -q prints %q", got)
	}
	if got := ok(t, store, "images", "-q", "--no-trunc"); got != string(b.Config.Digest)+"\n" {
		t.Errorf("images -q --no-trunc prints %q", got)
	}
	if got := ok(t, store, "images", "--no-trunc"); !strings.Contains(got, "  "+string(b.Config.Digest)+"  ") {
		t.Errorf("images --no-trunc:\n%s", got)
	}
	var rows []map[string]any
	if err := json.Unmarshal([]byte(ok(t, store, "image", "ls", "--format", "json")), &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 1 || rows[0]["name"] != "docker.io/test/one:1" || rows[0]["id"] != string(b.Config.Digest) || rows[0]["layers"] != 2.0 {
		t.Errorf("JSON list: %v", rows)
	}
	ok(t, store, "image", "tag", "test/one:1", "other")
	for want, n := range map[string]int{"": 2, "test/one": 1, "test/one:1": 1, "test/one:2": 0, "other": 1} {
		args := []string{"images", "--format", "json"}
		if want != "" {
			args = append(args, want)
		}
		if err := json.Unmarshal([]byte(ok(t, store, args...)), &rows); err != nil || len(rows) != n {
			t.Errorf("images %q lists %d, want %d", want, len(rows), n)
		}
	}
	if got := ok(t, store, "image", "verify", "other"); got != "other is complete\n" {
		t.Errorf("verify prints %q", got)
	}
	if got := fails(t, store, nil, "image", "rm", id); !strings.Contains(got, "more than one: other:latest, test/one:1") {
		t.Errorf("rm of an ID with two names: %s", got)
	}
	if got := ok(t, store, "image", "rm", "test/one:1"); got != "removed test/one:1\n0 B freed\n" {
		t.Errorf("rm prints %q", got)
	}
	// One that is not there does not keep the others.
	code, out, errOut := minirun(t, store, nil, "image", "rm", "nope", "other")
	if code != 1 || !strings.HasPrefix(out, "removed other:latest\n") || !strings.HasPrefix(errOut, "minirun: remove: image \"nope\" does not exist\nhint: ") {
		t.Errorf("rm of two: %d, %q, %q", code, out, errOut)
	}
	if got := ok(t, store, "images", "-q"); got != "" {
		t.Errorf("left: %q", got)
	}
	if left, _ := filepath.Glob(filepath.Join(store, "blobs/*/*")); len(left) != 0 {
		t.Errorf("blobs left: %v", left)
	}
	if got := ok(t, store, "image", "gc"); got != "removed 0 blobs and 0 unpacked layers, 0 B freed\n" {
		t.Errorf("gc prints %q", got)
	}
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	store := filepath.Join(dir, "store")
	_, path := image(t, "x", "x")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(dir, "cut.tar")
	text := filepath.Join(dir, "text")
	rootfs := filepath.Join(dir, "rootfs.tar")
	foreign := filepath.Join(dir, "foreign.tar")
	fb := imagetest.Build(t, imagetest.Image{Names: []string{"foreign"}, Config: imagestore.Config{OS: "linux", Architecture: "s390x"}})
	for p, b := range map[string][]byte{
		cut: whole[:len(whole)/2], text: bytes.Repeat([]byte("text "), 500), rootfs: imagetest.Files(t, "etc/passwd", "root"),
		foreign: imagetest.Archive(t, imagetest.DockerArchive(t, fb)),
	} {
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name string
		args []string
		want []string
	}{
		{"unknown command", []string{"frobnicate"}, []string{`unknown command "frobnicate"`, "hint: minirun --help"}},
		{"unknown image command", []string{"image", "frobnicate"}, []string{`unknown command "image frobnicate"`, "hint: minirun image --help"}},
		{"misspelled command", []string{"image", "improt"}, []string{`unknown command "image improt", did you mean "image import"`}},
		{"misspelled alias", []string{"image", "l"}, []string{`unknown command "image l", did you mean "image ls"`}},
		{"misspelled word of a group", []string{"kube", "rollout", "stauts"}, []string{`unknown command "kube rollout stauts", did you mean "kube rollout status"`}},
		{"misspelled at the top", []string{"pul"}, []string{`unknown command "pul", did you mean "pull"`}},
		{"pattern", []string{"images", "a/[*"}, []string{`minirun images: "a/[*": not a pattern`}},
		{"unknown flag", []string{"image", "load", "--bogus"}, []string{"-bogus", "hint: minirun image load --help"}},
		{"unknown global flag", []string{"--bogus"}, []string{"-bogus", "hint: minirun --help"}},
		{"too few arguments", []string{"image", "import", "x"}, []string{"wrong number of arguments, want: FILE|DIR|- NAME"}},
		{"too many arguments", []string{"image", "load", "a", "b"}, []string{"wrong number of arguments"}},
		{"flag at the end", []string{"image", "load", "a", "--quiet"}, []string{`flag "--quiet" comes after the arguments`, "hint: minirun image load --help"}},
		{"flag behind names", []string{"image", "rm", "a", "-f"}, []string{`flag "-f" comes after the arguments`}},
		{"source twice", []string{"image", "load", "-i", "a", "b"}, []string{"give the source once"}},
		{"format", []string{"images", "--format", "xml"}, []string{`unknown format "xml", want table or json`}},
		{"log format", []string{"--log-format", "xml", "images"}, []string{`unknown log format "xml"`}},
		{"no file", []string{"image", "load", "/no/such"}, []string{`load "/no/such": no such file or directory`}},
		{"cut off", []string{"image", "load", cut}, []string{"load ", "cut off", "hint: the source is damaged"}},
		{"no archive", []string{"image", "load", text}, []string{"no tar archive"}},
		{"root file system", []string{"image", "load", rootfs}, []string{"no image archive", "hint: an archive of a root file system becomes an image with: minirun image import"}},
		{"empty input", []string{"image", "load"}, []string{"load from standard input: it is empty"}},
		{"not there", []string{"image", "rm", "x:1"}, []string{`image "x:1" does not exist`, "hint: minirun image list"}},
		{"bad name", []string{"image", "import", rootfs, "Bad Name"}, []string{`"Bad Name"`}},
		{"bad change", []string{"image", "import", "--change", "RUN x", rootfs, "x"}, []string{`change "RUN x"`}},
		{"no binary", []string{"image", "demo", "--binary", "/no/such"}, []string{`binary "/no/such"`, "hint: name a minirun with --binary"}},
		{"binary is text", []string{"image", "demo", "--binary", text}, []string{"no ELF program"}},
		{"tag", []string{"image", "tag", "x", "y"}, []string{`tag: image "x" does not exist`}},
		{"verify", []string{"image", "verify", "x"}, []string{`"x"`}},
		{"unpack", []string{"image", "unpack", "x"}, []string{`image "x" does not exist`}},
		{"doctor", []string{"doctor", "--bogus"}, []string{"-bogus"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := fails(t, store, nil, tt.args...)
			for _, w := range tt.want {
				if !strings.Contains(got, w) {
					t.Errorf("says\n%swant %q in it", got, w)
				}
			}
		})
	}
	if list := ok(t, store, "images", "-q"); list != "" {
		t.Errorf("something was kept: %q", list)
	}
	// An image for another platform is kept, and people are told.
	code, out, errOut := minirun(t, store, nil, "image", "load", foreign)
	if code != 0 || !strings.HasPrefix(out, "loaded foreign:latest") || !strings.Contains(errOut, "warning: image \"docker.io/library/foreign:latest\" is for linux/s390x") {
		t.Errorf("foreign image: %d, %q, %q", code, out, errOut)
	}
	if got := fails(t, store, nil, "image", "unpack", "foreign"); !strings.Contains(got, "hint: use an image that was built for") {
		t.Errorf("unpack of a foreign image: %s", got)
	}
}

// Standard input that never ends does not keep a command that was interrupted.
func TestLoad_Interrupted(t *testing.T) {
	store := filepath.Join(t.TempDir(), "store")
	_, path := image(t, "x", "x")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	stdin, feed := io.Pipe()
	defer stdin.Close()
	ctx, interrupt := context.WithCancelCause(context.Background())
	go func() {
		_, _ = feed.Write(whole[:len(whole)/2])
		interrupt(errors.New("interrupted by a test"))
	}()
	var o, e bytes.Buffer
	code := run(ctx, []string{"minirund", "--store", store, "image", "load"}, stdin, &o, &e)
	if code != 1 || !strings.Contains(e.String(), "load from standard input: ") || !strings.Contains(e.String(), "interrupted by a test") {
		t.Errorf("%d, %q", code, e.String())
	}
	if left, _ := filepath.Glob(filepath.Join(store, "ingest", "*")); len(left) != 0 {
		t.Errorf("left in staging: %v", left)
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{}, {"--help"}, {"image"}, {"image", "--help"}, {"image", "load", "--help"}, {"images", "-h"}} {
		if out := ok(t, t.TempDir(), args...); !strings.Contains(out, "minirun") || !strings.Contains(out, "USAGE") {
			t.Errorf("minirun %q prints %q", args, out)
		}
	}
	if out := ok(t, t.TempDir(), "version"); !strings.HasPrefix(out, "minirun version ") {
		t.Errorf("version prints %q", out)
	}
}

// The default store must not become the working directory by an empty variable.
func TestStoreFromEnvironment(t *testing.T) {
	store := filepath.Join(t.TempDir(), "env")
	_, path := image(t, "x", "x")
	t.Setenv("MINIRUN_STORE", store)
	var o, e bytes.Buffer
	if code := run(context.Background(), []string{"minirund", "image", "load", "--no-unpack", path}, strings.NewReader(""), &o, &e); code != 0 {
		t.Fatal(e.String())
	}
	if _, err := os.Stat(filepath.Join(store, "index.json")); err != nil {
		t.Error(err)
	}
}

func TestLog(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	fails(t, dir, nil, "--log", log, "--log-format", "json", "image", "rm", "a", "b")
	fails(t, dir, nil, "--debug", "--log", log, "image", "rm", "c")
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	var entry struct{ Level, Msg, Time string }
	if len(lines) != 3 || json.Unmarshal([]byte(lines[1]), &entry) != nil || entry.Level != "error" || entry.Msg != `remove: image "b" does not exist` || entry.Time == "" {
		t.Errorf("log:\n%s", b)
	}
	if len(lines) == 3 && !strings.HasSuffix(lines[2], ` level=error msg="remove: image \"c\" does not exist"`) {
		t.Errorf("text entry: %s", lines[2])
	}
}

const hostMachine = 0

// elfFile writes an ELF file of a header, the program headers and some bytes.
// machine hostMachine is this host's.
func elfFile(t *testing.T, machine elf.Machine, progs []elf.Prog64) string {
	t.Helper()
	if machine == hostMachine {
		machine = elf.EM_X86_64
		if runtime.GOARCH == "arm64" {
			machine = elf.EM_AARCH64
		}
	}
	h := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT),
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: uint16(len(progs)), Shentsize: 64,
	}
	var b bytes.Buffer
	for _, v := range []any{h, progs, bytes.Repeat([]byte("code"), 1000)} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "minirun")
	if err := os.WriteFile(path, b.Bytes(), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDemo_Refuses(t *testing.T) {
	store := filepath.Join(t.TempDir(), "store")
	for want, path := range map[string]string{
		"linked dynamically": elfFile(t, hostMachine, []elf.Prog64{{Type: uint32(elf.PT_INTERP)}}),
		"it is for EM_S390":  elfFile(t, elf.EM_S390, nil),
	} {
		if got := fails(t, store, nil, "image", "demo", "--binary", path); !strings.Contains(got, want) {
			t.Errorf("says %q, want %q in it", got, want)
		}
	}
	if _, err := os.Stat(store); err == nil {
		t.Error("a store was created")
	}
}

func TestDemo_DependsOnTheBinaryAlone(t *testing.T) {
	self := elfFile(t, hostMachine, nil)
	store := filepath.Join(t.TempDir(), "store")
	args := []string{"image", "demo", "--no-unpack", "--binary", self}
	first := ok(t, store, args...)
	before := imagetest.Dump(t, store)
	if again := ok(t, store, args...); again != first || !strings.HasPrefix(first, "made minirun/demo:latest ") {
		t.Errorf("first %q, again %q", first, again)
	}
	if after := imagetest.Dump(t, store); after != before {
		t.Errorf("store changed:\n%s\nwas:\n%s", after, before)
	}
	s, err := imagestore.Open(store)
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Resolve("minirun/demo")
	if err != nil {
		t.Fatal(err)
	}
	c := img.Config.Config
	if strings.Join(c.Cmd, " ") != "/bin/hello" || len(c.Env) != 1 || !strings.HasPrefix(c.Env[0], "PATH=") || c.WorkingDir != "/" {
		t.Errorf("config %+v", c)
	}
}

func TestRootDemo_Unpacked(t *testing.T) {
	self := elfFile(t, hostMachine, nil)
	store := filepath.Join(t.TempDir(), "store")
	ok(t, store, "image", "demo", "--binary", self)
	s, err := imagestore.Open(store)
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Resolve("minirun/demo")
	if err != nil {
		t.Fatal(err)
	}
	layers, err := overlay.OpenStore(filepath.Join(store, "overlay"))
	if err != nil {
		t.Fatal(err)
	}
	defer layers.Close()
	fd, err := layers.MountView(overlay.ChainID(img.TopChainID()))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	root := fmt.Sprintf("/proc/self/fd/%d", fd)
	if link, err := os.Readlink(filepath.Join(root, "bin/hello")); err != nil || link != "/minirun" {
		t.Errorf("bin/hello leads to %q, %v", link, err)
	}
	if st, err := os.Stat(filepath.Join(root, "tmp")); err != nil {
		t.Error(err)
	} else if st.Mode() != os.ModeDir|os.ModeSticky|0o777 {
		t.Errorf("tmp is %v", st.Mode())
	}
	want, _ := os.ReadFile(self)
	if got, err := os.ReadFile(filepath.Join(root, "minirun")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the binary differs: %v", err)
	}
	ok(t, store, "image", "rm", "minirun/demo")
	if left, _ := filepath.Glob(filepath.Join(store, "overlay/layers/*")); len(left) != 0 {
		t.Errorf("layers left: %v", left)
	}
}

// load unpacks; an image whose name moves on takes its layers with it, except
// under a container.
func TestRootLoad_UnpacksAndReplaces(t *testing.T) {
	store := filepath.Join(t.TempDir(), "store")
	one, path1 := image(t, "x", "one")
	two, path2 := image(t, "x", "two")
	ok(t, store, "image", "load", path1)
	layers, err := overlay.OpenStore(filepath.Join(store, "overlay"))
	if err != nil {
		t.Fatal(err)
	}
	defer layers.Close()
	top := func(b *imagetest.Built) overlay.ChainID {
		return apply.Chain(overlay.ChainID(b.DiffIDs[0]), string(b.DiffIDs[1]))
	}
	if !layers.HasLayer(top(one)) {
		t.Fatal("load did not unpack")
	}
	code, _, errOut := minirun(t, store, nil, "image", "load", path2)
	if code != 0 || errOut != "minirun: warning: x:latest stood for another image before\n" {
		t.Errorf("load over a name: %d, %q", code, errOut)
	}
	if layers.HasLayer(top(one)) || !layers.HasLayer(top(two)) || !layers.HasLayer(overlay.ChainID(one.DiffIDs[0])) {
		t.Error("the layers are not those of the new image")
	}
	// Damage is found when layers are unpacked again, and names the layer.
	ok(t, store, "image", "rm", "x")
	ok(t, store, "image", "load", "--no-unpack", path1)
	blob := filepath.Join(store, "blobs/sha256", one.Layers[1].Digest.Hex())
	b, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	b[513] ^= 1
	if err := os.WriteFile(blob, b, 0o600); err != nil {
		t.Fatal(err)
	}
	got := fails(t, store, nil, "image", "unpack", "x")
	if !strings.Contains(got, `unpack image "x": layer 2 (`+string(one.Layers[1].Digest)+`)`) || !strings.Contains(got, "hint: what is stored is damaged: minirun image fsck --repair") {
		t.Errorf("unpack of a damaged layer: %s", got)
	}
	if got := fails(t, store, nil, "image", "verify", "x"); !strings.Contains(got, string(one.Layers[1].Digest)) {
		t.Errorf("verify of a damaged layer: %s", got)
	}
}

func TestText(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 1500: "1.5 kB", 999949: "999.9 kB", 999950: "1.0 MB", 5e9: "5.0 GB", 1<<63 - 1: "9.2 EB"} {
		if got := bytesText(n); got != want {
			t.Errorf("bytesText(%d) = %q, want %q", n, got, want)
		}
	}
	if got := progressLine("load", 500, 2000); got != "load: 500 B of 2.0 kB, 25%" {
		t.Errorf("progressLine: %q", got)
	}
	if got := printable("a\x1b[31mb\n\u009bc"); got != "a?[31mb??c" {
		t.Errorf("printable: %q", got)
	}
	if got := printable("\u202egpj.exe\u2066\u200b\xff."); got != "?gpj.exe???." {
		t.Errorf("printable: %q", got)
	}
	if got := oneLine(&imagestore.PlatformError{Ref: "x", Host: "h", Have: []string{"\x1b[2J\nminirun: all is well"}}); strings.ContainsAny(got, "\x1b\n") {
		t.Errorf("oneLine: %q", got)
	}
	if got := createdText("garbage"); got != "-" {
		t.Errorf("createdText: %q", got)
	}
}
