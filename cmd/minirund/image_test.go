package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minirun/minirun/imagestore"
	"github.com/minirun/minirun/imagestore/imagetest"
)

func loadImage(t *testing.T, store string, im imagetest.Image) *imagetest.Built {
	t.Helper()
	b := imagetest.Build(t, im)
	dir := t.TempDir()
	imagetest.WriteDir(t, dir, imagetest.Layout(t, b))
	ok(t, store, "image", "load", "--no-unpack", "-q", dir)
	return b
}

func TestImageFilters(t *testing.T) {
	store := filepath.Join(t.TempDir(), "store")
	label := func(v string) imagestore.Config {
		return imagestore.Config{Config: imagestore.ImageConfig{Labels: map[string]string{"env": v}}}
	}
	one := loadImage(t, store, imagetest.Image{Names: []string{"alpine:3.1"}, Config: label("test")})
	two := loadImage(t, store, imagetest.Image{Names: []string{"quay.io/some/alpine:3.2"}, Config: label("live")})
	// Without a name: what its name stood for was replaced by nothing.
	three := imagetest.Build(t, imagetest.Image{Layers: []imagetest.Layer{{Tar: imagetest.Files(t, "f", "f")}}})
	code, _, errOut := minirun(t, store, strings.NewReader(string(imagetest.Archive(t, imagetest.DockerArchive(t, three)))), "image", "load", "--no-unpack")
	if code != 0 {
		t.Fatal(errOut)
	}
	ids := map[string]string{one.Config.Digest.Short(): "one", two.Config.Digest.Short(): "two", three.Config.Digest.Short(): "three"}
	for _, tt := range []struct{ want, filters string }{
		{"one two", "dangling=false"},
		{"three", "dangling=true"},
		{"one", "reference=alpine"},
		{"one", "reference=alpine:3.*"},
		{"two", "reference=quay.io/*/alpine"},
		{"one two", "reference=alpine reference=quay.io/some/*"},
		{"one", "reference=docker.io/library/*"},
		{"one two", "label=env"},
		{"two", "label=env=live"},
		{"", "label=env=live label=env=test"},
		{"", "label=env=live dangling=true"},
	} {
		args := []string{"images", "-q"}
		for f := range strings.FieldsSeq(tt.filters) {
			args = append(args, "--filter", f)
		}
		var got []string
		for id := range strings.FieldsSeq(ok(t, store, args...)) {
			got = append(got, ids[id])
		}
		want := strings.Fields(tt.want)
		if fmt.Sprint(len(got), got) != fmt.Sprint(len(want), want) {
			t.Errorf("%s: %q, want %q", tt.filters, got, want)
		}
	}
	for pattern, want := range map[string]string{"alpine:*": "one", "quay.io/*/alpine": "two", "[aq]*ine": "one", "no*": "", "quay.io/some/alpine": "two"} {
		var got []string
		for id := range strings.FieldsSeq(ok(t, store, "images", "-q", pattern)) {
			got = append(got, ids[id])
		}
		if strings.Join(got, " ") != want {
			t.Errorf("images %q: %q, want %q", pattern, got, want)
		}
	}
	for _, bad := range []string{"x", "dangling=maybe", "reference=[", "size=1"} {
		if got := fails(t, store, nil, "images", "--filter", bad); !strings.Contains(got, "filter ") {
			t.Errorf("filter %q: %s", bad, got)
		}
	}
	if got := ok(t, store, "images", "--digests", "alpine:3.1"); !strings.Contains(got, "DIGEST") || !strings.Contains(got, string(one.Manifest.Digest)) {
		t.Errorf("--digests:\n%s", got)
	}
	// prune takes the one without a name, and with a filter of --all only those.
	if got := ok(t, store, "image", "prune", "--dry-run"); got != "would remove "+string(three.Manifest.Digest)+"\n" {
		t.Errorf("prune --dry-run prints %q", got)
	}
	if got := ok(t, store, "image", "prune", "--dry-run", "--format", "json"); got != "[\n  {\n    \"name\": \"\",\n    \"digest\": \""+string(three.Manifest.Digest)+"\"\n  }\n]\n" {
		t.Errorf("prune --dry-run --format json: %q", got)
	}
	if got := ok(t, store, "image", "prune", "--help"); !strings.Contains(got, "dangling=true|false") {
		t.Errorf("prune --help does not have a filter: %s", got)
	}
	if got := ok(t, store, "image", "prune"); !strings.HasPrefix(got, "removed "+string(three.Manifest.Digest)) {
		t.Errorf("prune prints %q", got)
	}
	if got := ok(t, store, "image", "prune", "--all", "--filter", "label=env=live"); !strings.HasPrefix(got, "removed quay.io/some/alpine:3.2\n") || strings.Count(got, "\n") != 2 {
		t.Errorf("prune --all prints %q", got)
	}
	ok(t, store, "image", "prune", "-a")
	if got := ok(t, store, "images", "-q"); got != "" {
		t.Errorf("left: %q", got)
	}
}

func TestImageInspectHistory(t *testing.T) {
	store := filepath.Join(t.TempDir(), "store")
	b := loadImage(t, store, imagetest.Image{
		Names:  []string{"x:1", "x:2"},
		Layers: []imagetest.Layer{{Tar: imagetest.Files(t, "a", "1")}, {Tar: imagetest.Files(t, "b", "2")}},
		Config: imagestore.Config{
			Author: "nobody", Created: "2026-01-02T03:04:05Z", Config: imagestore.ImageConfig{Cmd: []string{"a", "<b>"}},
			History: []imagestore.History{{CreatedBy: "ADD a"}, {CreatedBy: "CMD", EmptyLayer: true}, {CreatedBy: "ADD  b" + strings.Repeat("x", 90), Comment: "c\x1b[31m"}},
		},
	})
	var list []imageInfo
	if err := json.Unmarshal([]byte(ok(t, store, "image", "inspect", "x:1", b.Config.Digest.Hex()[:8])), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 {
		t.Fatalf("%d images", len(list))
	}
	i := list[0]
	chain := imagestore.FromBytes([]byte(string(b.DiffIDs[0]) + " " + string(b.DiffIDs[1])))
	if fmt.Sprint(i.Names) != "[docker.io/library/x:1 docker.io/library/x:2]" || i.ID != b.Config.Digest || i.Digest != b.Manifest.Digest ||
		i.Author != "nobody" || len(i.Layers) != 2 || i.Layers[1].DiffID != b.DiffIDs[1] || i.Layers[1].ChainID != chain ||
		i.Layers[0].ChainID != b.DiffIDs[0] || i.Layers[1].Size != b.Layers[1].Size || i.Platform != imagestore.HostPlatform().String() || i.Unpacked {
		t.Errorf("inspect: %+v", i)
	}
	var cfg imagestore.Config
	if err := json.Unmarshal(i.Config, &cfg); err != nil || cfg.Config.Cmd[1] != "<b>" {
		t.Errorf("config: %s, %v", i.Config, err)
	}
	code, out, errOut := minirun(t, store, nil, "image", "inspect", "nope", "x:1")
	if code != 1 || !strings.Contains(errOut, `image "nope" does not exist`) || json.Unmarshal([]byte(out), &list) != nil || len(list) != 1 {
		t.Errorf("inspect of two: %d, %q, %q", code, out, errOut)
	}
	lines := strings.Split(ok(t, store, "image", "history", "x:1"), "\n")
	if len(lines) != 5 || !strings.HasPrefix(lines[1], b.Layers[1].Digest.Short()) || !strings.Contains(lines[1], "ADD bxxx") || !strings.Contains(lines[1], "…") ||
		strings.Contains(lines[1], "\x1b") || !strings.HasPrefix(lines[2], "-") || !strings.HasPrefix(lines[3], b.Layers[0].Digest.Short()) {
		t.Errorf("history:\n%s", strings.Join(lines, "\n"))
	}
	if got := ok(t, store, "image", "history", "-q", "--no-trunc", "x:1"); got != string(b.Layers[1].Digest)+"\n"+string(b.Layers[0].Digest)+"\n" {
		t.Errorf("history -q: %s", got)
	}
	var rows []historyRow
	if err := json.Unmarshal([]byte(ok(t, store, "image", "history", "--format", "json", "x:1")), &rows); err != nil || len(rows) != 3 || rows[2].CreatedBy != "ADD a" {
		t.Errorf("history as JSON: %+v, %v", rows, err)
	}
	// An ID with two names goes at once only with --force.
	if got := fails(t, store, nil, "image", "rm", b.Config.Digest.Short()); !strings.Contains(got, "x:1, x:2") {
		t.Errorf("rm: %s", got)
	}
	if got := ok(t, store, "image", "rm", "--force", b.Config.Digest.Short()); strings.Count(got, "removed x:") != 2 {
		t.Errorf("rm --force: %s", got)
	}
}

func TestImageGCAndDU(t *testing.T) {
	store := filepath.Join(t.TempDir(), "store")
	if got := ok(t, store, "image", "gc", "--dry-run"); got != "0 B would be freed\n" {
		t.Errorf("gc of nothing: %q", got)
	}
	b := loadImage(t, store, imagetest.Image{Names: []string{"x:latest"}, Layers: []imagetest.Layer{{Tar: imagetest.Files(t, "a", "1")}}})
	if got := ok(t, store, "image", "gc", "--dry-run"); !strings.Contains(got, "stays  blob  "+b.Layers[0].Digest.Short()) || !strings.Contains(got, "name x:latest") {
		t.Errorf("gc --dry-run:\n%s", got)
	}
	var p struct{ Items []struct{ Keep bool } }
	if err := json.Unmarshal([]byte(ok(t, store, "image", "gc", "-n", "--format", "json")), &p); err != nil || len(p.Items) != 3 || !p.Items[0].Keep {
		t.Errorf("gc as JSON: %+v, %v", p, err)
	}
	if got, want := ok(t, store, "image", "gc", "--format", "json"), "{\n  \"blobs\": 0,\n  \"layers\": 0,\n  \"snapshots\": 0,\n  \"freed\": 0,\n  \"lost\": []\n}\n"; got != want {
		t.Errorf("gc as JSON: %q, want %q", got, want)
	}
	if got := ok(t, store, "image", "gc", "-n", "-q"); got != "0 B would be freed\n" {
		t.Errorf("gc -n -q: %s", got)
	}
	var u struct {
		Total  int64
		Groups []struct{ Disk int64 }
		Images []struct{ Names []string }
	}
	if err := json.Unmarshal([]byte(ok(t, store, "image", "du", "--format", "json")), &u); err != nil || len(u.Images) != 1 || u.Images[0].Names[0] != "docker.io/library/x:latest" {
		t.Errorf("du as JSON: %+v, %v", u, err)
	}
	if got := ok(t, store, "image", "du", "-q"); got != fmt.Sprintln(u.Total) || u.Total < 4096 {
		t.Errorf("du -q: %s, want %d", got, u.Total)
	}
	if got := ok(t, store, "image", "du"); !strings.Contains(got, "x:latest  "+b.Config.Digest.Short()) || !strings.Contains(got, "\ntotal ") {
		t.Errorf("du:\n%s", got)
	}
}
