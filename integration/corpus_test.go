package integration

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/minirun/minirun/imagestore/registrytest"
	"github.com/minirun/minirun/internal/kfeature"
	"github.com/minirun/minirun/internal/testenv"
)

// corpus is one row of the corpus of hostile images, for one unpacker: those rows
// that are decided before there is a layer, or when a container starts. The
// table in docs/security.md lists all rows; those about the content of layers are
// in overlay/apply.
type corpus struct {
	*imageHost
	kind string
	n    int
}

// rowsOfImages are about manifests, blobs, archives and registries.
var rowsOfImages = []struct {
	name string
	test func(c *corpus)
}{
	{"25 manifest that is an index", (*corpus).ambiguous},
	{"26 digest that does not match", (*corpus).flipped},
	{"27 diff ID that does not match", (*corpus).diffID},
	{"28 digest that is a path", (*corpus).pathDigest},
	{"29 body that is too short or has no end", (*corpus).wrongSize},
	{"34 members without end", (*corpus).members},
	{"41 huge metadata", (*corpus).huge},
	{"42 malformed metadata", (*corpus).malformed},
	{"43 nested indexes", (*corpus).nested},
	{"44 foreign layer", (*corpus).foreign},
	{"45 credentials elsewhere", (*corpus).elsewhere},
	{"46 mirror that lies", (*corpus).mirror},
	{"47 archive that leads out", (*corpus).leadsOut},
	{"48 name that is taken", (*corpus).taken},
	{"54 decompressor of the image", (*corpus).decompressor},
}

func TestRootCorpus(t *testing.T) {
	hosts := map[string]*imageHost{"extract": imageSetup(t), "index": nil}
	hosts["index"] = &imageHost{t: t, root: hosts["extract"].root, store: hosts["extract"].store + "-index"}
	for _, v := range []string{"DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"} {
		t.Setenv(v, t.TempDir()) // nobody's logins
	}
	without := kfeature.EROFSLowerIn(t.TempDir())
	for kind, h := range hosts {
		if kind == "extract" || without == nil {
			h.probe(kind)
		}
	}
	for _, row := range slices.Concat(rowsOfImages, rowsOfContainers) {
		for _, kind := range []string{"extract", "index"} {
			t.Run(row.name+"/"+kind, func(t *testing.T) {
				if kind == "index" && without != nil {
					t.Skip(without)
				}
				h := *hosts[kind]
				h.t, h.spent = t, &spent{}
				row.test(&corpus{imageHost: &h, kind: kind})
				h.spent.within(t)
			})
		}
	}
}

// probe loads an image, so that every row begins with a store that is there.
func (h *imageHost) probe(kind string) {
	h.t.Helper()
	path := filepath.Join(h.t.TempDir(), "probe.tar")
	writeFile(h.t, path, string((&imageBlobs{name: "probe", layers: [][]byte{imageLayer(h.t, imageEntry{name: "f"})}}).docker(h.t)))
	h.must("image", "load", "--quiet", "--unpacker", kind, path)
}

// needIndex skips a test that keeps layers as archives with an index where the
// kernel does not mount those. The kernel is asked, not minirun: what it says is
// among what is tested.
func needIndex(t testing.TB) {
	t.Helper()
	if err := kfeature.EROFSLowerIn(t.TempDir()); err != nil {
		t.Skip(err)
	}
}

// contents is what is in the store: blobs, layers, names, and work in progress.
func (c *corpus) contents() string {
	c.t.Helper()
	var all []string
	for _, dir := range []string{"blobs/sha256", "overlay/layers", "unpacked", "ingest", "partial", "overlay/staging"} {
		all = append(all, dir, strings.Join(c.entries(dir), " "))
	}
	index, _ := os.ReadFile(filepath.Join(c.store, "index.json"))
	return strings.Join(all, "\n") + "\n" + string(index)
}

// bounded runs a command, which must end in time and without a trace.
func (c *corpus) bounded(args ...string) testenv.Result {
	c.t.Helper()
	r := c.do(args...)
	if strings.Contains(r.Stderr, "panic") || strings.Contains(r.Stderr, "goroutine ") {
		c.t.Errorf("minirun %q: %+v", args, r)
	}
	return r
}

// rejects wants an archive to be refused with the words, and the store to be as
// it was.
func (c *corpus) rejects(what string, archive []byte, words ...string) {
	c.t.Helper()
	before := c.contents()
	path := filepath.Join(c.t.TempDir(), "archive.tar")
	writeFile(c.t, path, string(archive))
	r := c.bounded("image", "load", "--quiet", "--unpacker", c.kind, path)
	if r.Code != 1 || r.Stdout != "" {
		c.t.Errorf("%s: %+v, want an error", what, r)
	}
	for _, w := range words {
		if !strings.Contains(r.Stderr, w) {
			c.t.Errorf("%s: %q does not say %q", what, r.Stderr, w)
		}
	}
	if after := c.contents(); after != before {
		c.t.Errorf("%s: the store changed:\n%s\nwas\n%s", what, after, before)
	}
}

// accepts loads an image as the row's unpacker does.
func (c *corpus) accepts(b *imageBlobs) {
	c.t.Helper()
	c.load(b, "--unpacker", c.kind)
}

// name is one that no other row uses.
func (c *corpus) name() string {
	c.n++
	return fmt.Sprintf("row%s-%d", strings.NewReplacer("testrootcorpus/", "", "/", "-", "_", "-").Replace(strings.ToLower(c.t.Name())), c.n)
}

type ociDescriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	URLs        []string          `json:"urls,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

const ociType = "application/vnd.oci.image."

func describe(mediaType string, b []byte) ociDescriptor {
	return ociDescriptor{MediaType: mediaType, Digest: imageDigest(b), Size: len(b)}
}

// ociLayout is an archive of a layout with the blobs; index.json has the text, or
// lists the descriptor.
func ociLayout(t testing.TB, index any, blobs ...[]byte) []byte {
	t.Helper()
	if d, ok := index.(ociDescriptor); ok {
		index = string(imageJSON(t, map[string]any{"schemaVersion": 2, "manifests": []ociDescriptor{d}}))
	}
	files := []imageEntry{{name: "oci-layout", data: `{"imageLayoutVersion":"1.0.0"}`, mode: 0o644}, {name: "index.json", data: index.(string), mode: 0o644}}
	for _, b := range blobs {
		files = append(files, imageEntry{name: "blobs/sha256/" + strings.TrimPrefix(imageDigest(b), "sha256:"), data: string(b), mode: 0o644})
	}
	return imageLayer(t, files...)
}

// parts are the blobs of an image of one layer, plain unless compressed says
// otherwise, and its manifest as an object.
func (c *corpus) parts(plain, compressed []byte) (config []byte, manifest map[string]any) {
	c.t.Helper()
	config = (&imageBlobs{layers: [][]byte{plain}, config: map[string]any{"Cmd": []string{"true"}}}).configBlob(c.t)
	suffix := ""
	switch {
	case bytes.HasPrefix(compressed, []byte{0x1f, 0x8b}):
		suffix = "+gzip"
	case bytes.HasPrefix(compressed, []byte{0x28, 0xb5}) || bytes.HasPrefix(compressed, []byte{0x50, 0x2a}):
		suffix = "+zstd"
	}
	return config, map[string]any{
		"schemaVersion": 2, "mediaType": ociType + "manifest.v1+json", "config": describe(ociType+"config.v1+json", config),
		"layers": []ociDescriptor{describe(ociType+"layer.v1.tar"+suffix, compressed)},
	}
}

// oneLayer is an image that the rows change; every row has content of its own.
func (c *corpus) oneLayer() (layer, config []byte, manifest map[string]any) {
	layer = imageLayer(c.t, imageEntry{name: "file", data: c.name() + strings.Repeat(" content", 500)})
	config, manifest = c.parts(layer, layer)
	return layer, config, manifest
}

func (c *corpus) ambiguous() {
	layer, config, m := c.oneLayer()
	m["manifests"] = []any{}
	b := imageJSON(c.t, m)
	c.rejects("manifest", ociLayout(c.t, describe(ociType+"manifest.v1+json", b), layer, config, b), "ambiguous")
	c.rejects("as an index", ociLayout(c.t, describe(ociType+"index.v1+json", b), layer, config, b), "ambiguous")
	delete(m, "manifests")
	b = imageJSON(c.t, m)
	c.rejects("manifest called an index", ociLayout(c.t, describe(ociType+"index.v1+json", b), layer, config, b), "ambiguous")
}

func (c *corpus) diffID() {
	_, config, _ := c.oneLayer()
	other := imageLayer(c.t, imageEntry{name: "file", data: "another"})
	for _, blob := range [][]byte{other, imageGzip(c.t, other), imageZstd(other)} {
		_, m := c.parts(nil, blob)
		m["config"] = describe(ociType+"config.v1+json", config)
		b := imageJSON(c.t, m)
		c.rejects("layer", ociLayout(c.t, describe(ociType+"manifest.v1+json", b), blob, config, b), "diff ID")
	}
}

func (c *corpus) pathDigest() {
	layer, config, m := c.oneLayer()
	hex := strings.TrimPrefix(imageDigest(layer), "sha256:")
	for _, d := range []string{"sha256:../../../../etc/passwd", "sha256:" + strings.ToUpper(hex), "sha256:" + hex[:63], "sha256:" + hex + "0", "../" + hex, "md5:" + hex[:32], ":", ""} {
		b := imageJSON(c.t, m)
		c.rejects("index with "+d, ociLayout(c.t, ociDescriptor{MediaType: ociType + "manifest.v1+json", Digest: d, Size: len(b)}, layer, config, b), "digest")
		bad := describe(ociType+"layer.v1.tar", layer)
		bad.Digest = d
		m["layers"] = []ociDescriptor{bad}
		b = imageJSON(c.t, m)
		c.rejects("manifest with "+d, ociLayout(c.t, describe(ociType+"manifest.v1+json", b), layer, config, b), "digest")
		_, _, m = c.oneLayer()
	}
}

// members are half a million empty gzip members, zstd frames and skippable frames
// behind the layer: they are read, in a time that their number is good for, and
// count as nothing. A frame that wants a huge window is refused.
func (c *corpus) members() {
	plain := imageLayer(c.t, imageEntry{name: "file", data: c.name()})
	const n = 1 << 19
	skip := append([]byte{0x50, 0x2a, 0x4d, 0x18}, 0, 0, 0, 0)
	empty := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	for i, blob := range [][]byte{
		append(imageGzip(c.t, plain), bytes.Repeat(empty, n/4)...),
		append(imageZstd(plain), bytes.Repeat(imageZstd(nil), n/4)...),
		append(bytes.Repeat(skip, n), imageZstd(plain)...),
	} {
		config, m := c.parts(plain, blob)
		b := imageJSON(c.t, m)
		d := describe(ociType+"manifest.v1+json", b)
		d.Annotations = map[string]string{"org.opencontainers.image.ref.name": "row34:" + fmt.Sprint(i)}
		path := filepath.Join(c.t.TempDir(), "image.tar")
		writeFile(c.t, path, string(ociLayout(c.t, d, blob, config, b)))
		if r := c.bounded("image", "load", "--quiet", "--unpacker", c.kind, path); r.Code != 0 {
			c.t.Errorf("%d: %+v", i, r)
		}
	}
	// A window of 4 GiB, and one of 256 MiB.
	for _, window := range []byte{22 << 3, 18 << 3} {
		blob := binary.LittleEndian.AppendUint32([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, window, 0x03, 0, 0}, 0)
		config, m := c.parts(plain, blob)
		b := imageJSON(c.t, m)
		c.rejects("window", ociLayout(c.t, describe(ociType+"manifest.v1+json", b), blob, config, b), "window")
	}
}

func (c *corpus) huge() {
	layer, config, m := c.oneLayer()
	pad := bytes.Repeat([]byte(" "), 4<<20)
	b := append(imageJSON(c.t, m), pad...)
	c.rejects("manifest", ociLayout(c.t, describe(ociType+"manifest.v1+json", b), layer, config, b), "limit")
	big := append(bytes.Clone(config), pad...)
	m["config"] = describe(ociType+"config.v1+json", big)
	b = imageJSON(c.t, m)
	c.rejects("config", ociLayout(c.t, describe(ociType+"manifest.v1+json", b), layer, big, b), "limit")
	index := append([]byte(`{"schemaVersion":2,"manifests":[]}`), pad...)
	c.rejects("index", ociLayout(c.t, describe(ociType+"index.v1+json", index), index), "limit")
	c.rejects("index.json", ociLayout(c.t, string(index)), "limit")
	c.rejects("manifest.json", imageLayer(c.t, imageEntry{name: "manifest.json", data: "[" + string(pad) + "]"}), "limit")
	// Layers and entries beyond any image's.
	layers := make([]ociDescriptor, 5000)
	for i := range layers {
		layers[i] = describe(ociType+"layer.v1.tar", layer)
	}
	m["config"], m["layers"] = describe(ociType+"config.v1+json", config), layers
	b = imageJSON(c.t, m)
	c.rejects("5,000 layers", ociLayout(c.t, describe(ociType+"manifest.v1+json", b), layer, config, b))
}

func (c *corpus) malformed() {
	layer, config, m := c.oneLayer()
	good := string(imageJSON(c.t, m))
	for _, text := range []string{
		"null", "[]", "{}", "{", `"x"`, "3", "",
		strings.Replace(good, `"layers":[`, `"layers":[null,`, 1), strings.Replace(good, `"layers":[`, `"layers":null,"x":[`, 1), strings.Replace(good, `"size":`, `"size":-`, 2),
		strings.Replace(good, `"size":`, `"size":1e300,"x":`, 2), strings.Replace(good, `"size":`, `"size":"","x":`, 2), strings.Replace(good, `"config":{`, `"config":null,"x":{`, 1),
		strings.Replace(good, `"digest":"sha256`, `"digest":{},"x":"`, 1), strings.Repeat("[", 100_000), strings.Repeat(`{"config":`, 100_000),
	} {
		if text == good {
			c.t.Fatal("nothing was changed")
		}
		c.rejects("manifest "+text[:min(len(text), 60)], ociLayout(c.t, describe(ociType+"manifest.v1+json", []byte(text)), layer, config, []byte(text)))
		c.rejects("index.json "+text[:min(len(text), 60)], ociLayout(c.t, text, layer, config))
	}
	for _, text := range []string{"null", "[]", `{"rootfs":null}`, `{"rootfs":{"type":"layers","diff_ids":[null]}}`, `{"rootfs":{"type":"x","diff_ids":[]}}`, `{"config":3}`, strings.Replace(string(config), `"os":"linux"`, `"os":3`, 1)} {
		m["config"] = describe(ociType+"config.v1+json", []byte(text))
		b := imageJSON(c.t, m)
		c.rejects("config "+text, ociLayout(c.t, describe(ociType+"manifest.v1+json", b), layer, []byte(text), b))
	}
}

// nested indexes: deeper than three, and one that lists itself cannot be made, but
// one of the same digest at every depth can be claimed.
func (c *corpus) nested() {
	layer, config, m := c.oneLayer()
	b := imageJSON(c.t, m)
	blobs := [][]byte{layer, config, b}
	d := describe(ociType+"manifest.v1+json", b)
	for range 5 {
		index := imageJSON(c.t, map[string]any{"schemaVersion": 2, "mediaType": ociType + "index.v1+json", "manifests": []ociDescriptor{d}})
		blobs = append(blobs, index)
		d = describe(ociType+"index.v1+json", index)
	}
	c.rejects("five deep", ociLayout(c.t, d, blobs...), "deep")
	d.Digest = "sha256:" + strings.Repeat("a", 64)
	index := imageJSON(c.t, map[string]any{"schemaVersion": 2, "manifests": []ociDescriptor{d}})
	files := []imageEntry{
		{name: "oci-layout", data: `{"imageLayoutVersion":"1.0.0"}`},
		{name: "blobs/sha256/" + strings.Repeat("a", 64), data: string(index)},
		{name: "index.json", data: string(index)},
	}
	c.rejects("itself", imageLayer(c.t, files...))
}

func (c *corpus) leadsOut() {
	secret := filepath.Join(c.t.TempDir(), "secret")
	writeFile(c.t, secret, `{"os":"linux"}`)
	layer, config, _ := c.oneLayer()
	manifest := func(config, layer string) imageEntry {
		b, err := json.Marshal([]map[string]any{{"Config": config, "RepoTags": []string{"out:1"}, "Layers": []string{layer}}})
		if err != nil {
			c.t.Fatal(err)
		}
		return imageEntry{name: "manifest.json", data: string(b)}
	}
	good := []imageEntry{{name: "config.json", data: string(config)}, {name: "layer.tar", data: string(layer)}}
	up := strings.Repeat("../", 30) + strings.TrimPrefix(secret, "/")
	for _, out := range []string{secret, up} {
		c.rejects("config "+out, imageLayer(c.t, append(slices.Clone(good), manifest(out, "layer.tar"))...))
		c.rejects("layer "+out, imageLayer(c.t, append(slices.Clone(good), manifest("config.json", out))...))
		c.rejects("config link", imageLayer(c.t, manifest("link", "layer.tar"), good[1], imageEntry{name: "link", link: out}), "leads out")
		c.rejects("layer link", imageLayer(c.t, manifest("config.json", "l/layer.tar"), good[0], imageEntry{name: "l/layer.tar", link: out}), "leads out")
		c.rejects("blob link", append(ociLayout(c.t, ociDescriptor{MediaType: ociType + "manifest.v1+json", Digest: imageDigest([]byte(`{"os":"linux"}`)), Size: 14})[:2048],
			imageLayer(c.t, imageEntry{name: "blobs/sha256/" + imageDigest([]byte(`{"os":"linux"}`))[7:], link: out})...))
	}
}

// taken: an archive that brings a name that stands for another image says so, and
// with a name for it given it takes no other.
func (c *corpus) taken() {
	name := c.name()
	c.accepts(&imageBlobs{name: name, layers: [][]byte{imageLayer(c.t, imageEntry{name: "a", data: "good"})}})
	evil := &imageBlobs{name: name, layers: [][]byte{imageLayer(c.t, imageEntry{name: "a", data: "evil"})}}
	path := filepath.Join(c.t.TempDir(), "evil.tar")
	writeFile(c.t, path, string(evil.docker(c.t)))
	before := c.must("image", "list", "--quiet", "--no-trunc", name)
	if r := c.bounded("image", "load", "--quiet", "--unpacker", c.kind, "--name", name+"-evil", path); r.Code != 0 || r.Stderr != "" {
		c.t.Errorf("%+v", r)
	}
	if got := c.must("image", "list", "--quiet", "--no-trunc", name); got != before {
		c.t.Errorf("--name for another: %q, was %q", got, before)
	}
	blobs := c.entries("blobs/sha256")
	if r := c.bounded("image", "load", "--quiet", "--unpacker", c.kind, "--no-retag", path); r.Code != 1 || !strings.Contains(r.Stderr, `name "`+name+`:latest" stands for another image`) {
		c.t.Errorf("--no-retag: %+v", r)
	}
	if got := c.must("image", "list", "--quiet", "--no-trunc", name); got != before || !slices.Equal(c.entries("blobs/sha256"), blobs) {
		c.t.Errorf("--no-retag: %q, was %q; blobs %q, were %q", got, before, c.entries("blobs/sha256"), blobs)
	}
	if r := c.bounded("image", "load", "--quiet", "--unpacker", c.kind, path); r.Code != 0 || !strings.Contains(r.Stderr, name+":latest stood for another image before") {
		c.t.Errorf("%+v", r)
	}
	// What has the name already may come again.
	if r := c.bounded("image", "load", "--quiet", "--unpacker", c.kind, "--no-retag", path); r.Code != 0 || r.Stderr != "" {
		c.t.Errorf("--no-retag of the same image: %+v", r)
	}
}

// decompressor: programs that others call to unpack, and libraries that they
// load, in the image, the working directory and $PATH.
func (c *corpus) decompressor() {
	dir := c.t.TempDir()
	ran := filepath.Join(dir, "ran")
	script := "#!/bin/sh\necho $0 >> " + ran + "\nexec cat\n"
	var bad []imageEntry
	for _, name := range strings.Fields("unpigz pigz gzip gunzip igzip zstd unzstd tar xz bzip2 unpack runc crun fsck.erofs mkfs.erofs") {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			c.t.Fatal(err)
		}
		bad = append(bad, imageEntry{name: "bin/" + name, data: script}, imageEntry{name: "usr/bin/" + name, data: script})
	}
	bad = append(bad, imageEntry{name: "etc/nsswitch.conf", data: "passwd: evil\n"}, imageEntry{name: "lib/libnss_evil.so.2", data: script}, imageEntry{name: "etc/ld.so.preload", data: "/lib/libnss_evil.so.2\n"})
	b := &imageBlobs{name: c.name(), layers: [][]byte{imageRootfs(c.t, bad...), imageLayer(c.t, imageEntry{name: "second"})}, config: map[string]any{"Cmd": []string{"true"}, "User": "user"}}
	cmd := testenv.Command(c.t, c.command("image", "load", "--quiet", "--unpacker", c.kind)...)
	cmd.Stdin = bytes.NewReader(imageLayer(c.t, b.oci(c.t)...))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+dir, "LD_PRELOAD=", "GODEBUG=netdns=cgo")
	if r := c.spent.run(c.t, cmd); r.Code != 0 {
		c.t.Fatalf("%+v", r)
	}
	cmd = testenv.Command(c.t, c.command("run", "--rm", "--image", b.name, c.id())...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+dir)
	if r := c.spent.run(c.t, cmd); r.Code != 0 {
		c.t.Errorf("%+v", r)
	}
	if out, err := os.ReadFile(ran); err == nil {
		c.t.Errorf("programs that were run: %s", out)
	}
}

// source is a registry with an image of one layer that nobody else has.
func (c *corpus) source(o registrytest.Options, change func(m map[string]any)) (s *registrytest.Server, name, layer string) {
	s = registrytest.New(c.t, o)
	plain, config, m := c.oneLayer()
	if change != nil {
		change(m)
	}
	s.AddBlob("test/app", config)
	layer = s.AddBlob("test/app", plain)
	s.AddManifest("test/app", ociType+"manifest.v1+json", imageJSON(c.t, m), "v1")
	return s, s.Host() + "/test/app:v1", layer
}

func (c *corpus) pulls(name string, more ...string) testenv.Result {
	c.t.Helper()
	return c.bounded(append(append([]string{"pull", "--quiet", "--progress", "none", "--unpacker", c.kind}, more...), name)...)
}

// pullFails wants no image, and nothing but what the next pull goes on with.
func (c *corpus) pullFails(name, want string, more ...string) {
	c.t.Helper()
	before := strings.Split(c.contents(), "\npartial\n")[0]
	if r := c.pulls(name, more...); r.Code != 1 || !strings.Contains(r.Stderr, want) {
		c.t.Errorf("%+v, want an error with %q", r, want)
	}
	if after := strings.Split(c.contents(), "\npartial\n")[0]; after != before {
		c.t.Errorf("the store changed:\n%s\nwas\n%s", after, before)
	}
}

func (c *corpus) pullWorks(name string, more ...string) {
	c.t.Helper()
	if r := c.pulls(name, more...); r.Code != 0 {
		c.t.Errorf("%+v", r)
	}
	c.must("image", "verify", name)
}

func (c *corpus) flipped() {
	s, name, layer := c.source(registrytest.Options{}, nil)
	s.Fail(registrytest.Fault{Path: layer, Flip: 600})
	c.pullFails(name, "content has digest sha256:")
	s.Heal()
	s.Fail(registrytest.Fault{Path: layer, Flip: 600, Times: 1})
	c.pullWorks(name) // asked for again, once
}

func (c *corpus) wrongSize() {
	s, name, layer := c.source(registrytest.Options{}, nil)
	s.Fail(registrytest.Fault{Path: layer, Endless: true})
	c.pullFails(name, "content is longer than")
	s.Heal()
	s.Fail(registrytest.Fault{Path: layer, Length: 1000})
	c.pullFails(name, "content has")
	s.Heal()
	s.Fail(registrytest.Fault{Path: layer, Cut: 1000, Times: 1})
	c.pullWorks(name)
	// The manifest says what is too little, or too much.
	for _, more := range []int{-10, 10} {
		_, name, _ := c.source(registrytest.Options{}, func(m map[string]any) { m["layers"].([]ociDescriptor)[0].Size += more })
		if r := c.pulls(name); r.Code != 1 {
			c.t.Errorf("%d bytes more than there are: %+v", more, r)
		}
	}
}

func (c *corpus) foreign() {
	other := registrytest.New(c.t, registrytest.Options{})
	for _, mediaType := range []string{"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", ociType + "layer.nondistributable.v1.tar", ociType + "layer.v1.tar"} {
		s, name, layer := c.source(registrytest.Options{}, func(m map[string]any) {
			l := m["layers"].([]ociDescriptor)
			l[0].MediaType, l[0].URLs = mediaType, []string{other.URL + "/layer"}
		})
		s.RemoveBlob("test/app", layer)
		c.pullFails(name, "404 not found")
	}
	_, name, _ := c.source(registrytest.Options{}, func(m map[string]any) { m["layers"].([]ociDescriptor)[0].URLs = []string{other.URL + "/layer"} })
	c.pullWorks(name) // of the registry itself
	if r := other.Requests(); len(r) > 0 {
		c.t.Errorf("the other host was asked: %+v", r)
	}
}

func (c *corpus) elsewhere() {
	for _, bearer := range []bool{false, true} {
		s, name, layer := c.source(registrytest.Options{User: "alice", Password: "secret", Bearer: bearer}, nil)
		other := registrytest.New(c.t, registrytest.Options{User: "alice", Password: "secret", Bearer: bearer})
		b, _ := s.Blob("test/app", layer)
		other.AddBlob("test/app", b)
		s.Fail(registrytest.Fault{Path: layer, RedirectTo: other.URL + "/"})
		auth := filepath.Join(c.t.TempDir(), "auth.json")
		writeFile(c.t, auth, fmt.Sprintf(`{"auths":{%q:{"auth":"YWxpY2U6c2VjcmV0"}}}`, s.Host()))
		c.pullFails(name, "401", "--authfile", auth)
		for _, r := range other.Requests() {
			if r.Authorization != "" {
				c.t.Errorf("the other host got credentials: %+v", r)
			}
		}
		if len(other.Requests()) == 0 || s.Count(http.MethodGet, layer) == 0 {
			c.t.Error("nobody was redirected")
		}
	}
}

// mirror: one that sends other content for a tag, and other bytes for a digest.
func (c *corpus) mirror() {
	s, name, layer := c.source(registrytest.Options{}, nil)
	evil, _, _ := c.source(registrytest.Options{}, nil)
	for _, capabilities := range []string{`"pull"`, `"pull", "resolve"`} {
		dir := c.t.TempDir()
		host := strings.Replace(s.Host(), ":", "_", 1) + "_"
		if err := os.Mkdir(filepath.Join(dir, host), 0o755); err != nil {
			c.t.Fatal(err)
		}
		writeFile(c.t, filepath.Join(dir, host, "hosts.toml"), fmt.Sprintf("server = %q\n[host.%q]\ncapabilities = [%s]\n", s.URL, evil.URL, capabilities))
		if strings.Contains(capabilities, "resolve") {
			// It may say what tags mean, and then does.
			c.pullWorks(name, "--hosts-dir", dir)
			if s.Count(http.MethodGet, layer) > 1 {
				c.t.Error("the image of the registry")
			}
			continue
		}
		b, _ := s.Blob("test/app", layer)
		b = bytes.Clone(b)
		b[600] ^= 1
		evil.Fail(registrytest.Fault{Path: layer, Status: http.StatusOK, Body: string(b)})
		c.pullWorks(name, "--hosts-dir", dir)
		if evil.Count(http.MethodGet, layer) == 0 || s.Count(http.MethodGet, layer) != 1 {
			c.t.Errorf("the mirror was asked %d times, the registry %d times, for the layer", evil.Count(http.MethodGet, layer), s.Count(http.MethodGet, layer))
		}
		evil.Heal()
	}
}
