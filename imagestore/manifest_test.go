package imagestore

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

var testDigest = "sha256:" + strings.Repeat("0a", 32)

func TestParseManifest_Refuses(t *testing.T) {
	desc := `{"mediaType":"m","digest":"` + testDigest + `","size":3}`
	config := `"config":` + desc
	layers := `"layers":[` + desc + `]`
	many := `"layers":[` + strings.Repeat(desc+",", MaxLayers) + desc + `]`
	tests := []struct{ name, body, want string }{
		{"also an index", `{"schemaVersion":2,` + config + `,` + layers + `,"manifests":[]}`, "ambiguous"},
		{"also an index, other case", `{"schemaVersion":2,` + config + `,` + layers + `,"Manifests":[]}`, "ambiguous"},
		{"other media type in the body", `{"schemaVersion":2,"mediaType":"` + MediaTypeIndex + `",` + config + `,` + layers + `}`, "ambiguous"},
		{"member twice", `{"schemaVersion":2,` + config + `,` + layers + `,` + layers + `}`, "ambiguous"},
		{"member twice by case", `{"schemaVersion":2,` + config + `,` + layers + `,"Layers":[]}`, "ambiguous"},
		{"member in other case", `{"schemaVersion":2,` + config + `,"LAYERS":[]}`, "ambiguous"},
		{"digest twice", `{"schemaVersion":2,` + config + `,"layers":[{"digest":"` + testDigest + `","size":1,"digest":"` + testDigest + `"}]}`, "layers: ambiguous"},
		{"digest by another name", `{"schemaVersion":2,"config":{"digest":"` + testDigest + `","Digest":"` + testDigest + `","size":1},` + layers + `}`, "config: ambiguous"},
		{"a name that only some readers know", `{"schemaVersion":2,"config":{"digest":"` + testDigest + `","ſize":1},` + layers + `}`, "config: ambiguous"},
		{"platform twice", `{"schemaVersion":2,"config":{"digest":"` + testDigest + `","size":1,"platform":{"os":"linux","os":"windows"}},` + layers + `}`, "config: ambiguous"},
		{"subject twice within", `{"schemaVersion":2,` + config + `,` + layers + `,"subject":{"digest":"` + testDigest + `","size":1,"size":2}}`, "subject: ambiguous"},
		{"annotation twice", `{"schemaVersion":2,` + config + `,` + layers + `,"annotations":{"a":"b","a":"c"}}`, "annotations: ambiguous"},
		{"deep", `{"schemaVersion":2,` + config + `,` + layers + `,"x":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`, "deep"},
		{"schema 1", `{"schemaVersion":1,"fsLayers":[],"history":[]}`, "schema 1"},
		{"schema 3", `{"schemaVersion":3,` + config + `}`, "schemaVersion"},
		{"no schema", `{` + config + `}`, "schemaVersion"},
		{"no config", `{"schemaVersion":2,` + layers + `}`, "config"},
		{"null config", `{"schemaVersion":2,"config":null,` + layers + `}`, "config"},
		{"null layer", `{"schemaVersion":2,` + config + `,"layers":[null]}`, "layer 1"},
		{"digest is a path", `{"schemaVersion":2,` + config + `,"layers":[{"digest":"sha256:../../../x","size":1}]}`, "layer 1"},
		{"negative size", `{"schemaVersion":2,` + config + `,"layers":[{"digest":"` + testDigest + `","size":-1}]}`, "negative"},
		{"size is no number", `{"schemaVersion":2,` + config + `,"layers":[{"digest":"` + testDigest + `","size":"1"}]}`, "size"},
		{"too many layers", `{"schemaVersion":2,` + config + `,` + many + `}`, "more than"},
		{"null", `null`, "not a JSON object"},
		{"array", `[]`, "not a JSON object"},
		{"empty", ``, "ends within"},
		{"cut off", `{"schemaVersion":2,` + config, "ends within"},
		{"text behind", `{"schemaVersion":2,` + config + `,` + layers + `} x`, "after top-level"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := ParseManifest([]byte(tt.body), MediaTypeManifest)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ParseManifest = %+v, %v, want an error with %q", m, err, tt.want)
			}
		})
	}
	if _, err := ParseManifest([]byte(`{"schemaVersion":2,`+config+`,`+layers+`,"annotations":{"a":"b","A":"c","Digest":"d","digest":"e"},"x":{"a":1,"A":2}}`), MediaTypeManifest); err != nil {
		t.Errorf("a good one: %v", err)
	}
	if _, err := ParseManifest([]byte(`{}`), "text/plain"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("other media type: %v, want ErrUnsupported", err)
	}
}

func TestParseIndex_Refuses(t *testing.T) {
	desc := `{"mediaType":"m","digest":"` + testDigest + `","size":3}`
	for name, body := range map[string]string{
		"also a manifest":  `{"schemaVersion":2,"manifests":[],"layers":[]}`,
		"has a config":     `{"schemaVersion":2,"manifests":[],"config":` + desc + `}`,
		"too many entries": `{"schemaVersion":2,"manifests":[` + strings.Repeat(desc+",", MaxEntries) + desc + `]}`,
		"bad digest":       `{"schemaVersion":2,"manifests":[{"digest":"sha256:00"}]}`,
		"null entry":       `{"schemaVersion":2,"manifests":[null]}`,
	} {
		if _, err := ParseIndex([]byte(body), MediaTypeIndex); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := ParseIndex([]byte(`{"schemaVersion":2,"manifests":[`+desc+`]}`), MediaTypeDockerList); err != nil {
		t.Errorf("a good one: %v", err)
	}
}

func TestParseConfig_Refuses(t *testing.T) {
	for name, body := range map[string]string{
		"no rootfs":      `{"os":"linux"}`,
		"other type":     `{"rootfs":{"type":"x","diff_ids":["` + testDigest + `"]}}`,
		"too few layers": `{"rootfs":{"type":"layers","diff_ids":[]}}`,
		"bad diff ID":    `{"rootfs":{"type":"layers","diff_ids":["sha256:../x"]}}`,
		"wrong type":     `{"rootfs":{"type":"layers","diff_ids":["` + testDigest + `"]},"config":{"Env":5}}`,
		"Env twice":      `{"rootfs":{"type":"layers","diff_ids":["` + testDigest + `"]},"config":{"Env":["A=1"],"Env":["A=2"]}}`,
		"diff IDs twice": `{"rootfs":{"type":"layers","diff_ids":["` + testDigest + `"],"diff_ids":["` + testDigest + `"]}}`,
		"null diff ID":   `{"rootfs":{"type":"layers","diff_ids":[null]}}`,
		"null":           `null`,
	} {
		if _, err := ParseConfig([]byte(body), 1); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := ParseConfig([]byte(`{"rootfs":{"type":"layers","diff_ids":["`+testDigest+`"]},"config":null,"created":"yesterday"}`), 1); err != nil {
		t.Errorf("a good one: %v", err)
	}
}

// Our types against those of the image-spec: what they write, ours keep.
func TestTypes_MatchImageSpec(t *testing.T) {
	text := []string{
		`{
		"created":"2026-01-02T03:04:05Z","author":"a","architecture":"arm64","os":"linux","os.version":"1","os.features":["f"],"variant":"v8",
		"config":{"User":"u","ExposedPorts":{"80/tcp":{}},"Env":["A=b"],"Entrypoint":["e"],"Cmd":["c"],"Volumes":{"/v":{}},"WorkingDir":"/w",
			"Labels":{"l":"m"},"StopSignal":"SIGTERM","ArgsEscaped":true},
		"rootfs":{"type":"layers","diff_ids":["` + testDigest + `"]},
		"history":[{"created":"2026-01-02T03:04:05Z","created_by":"b","author":"c","comment":"d","empty_layer":true}]}`,
		`{"schemaVersion":2,"mediaType":"` + MediaTypeManifest + `","artifactType":"t","config":{"mediaType":"m","digest":"` + testDigest + `","size":3,
			"urls":["u"],"annotations":{"a":"b"},"data":"AAEC","platform":{"architecture":"a","os":"o","os.version":"v","os.features":["f"],"variant":"w"},"artifactType":"x"},
		"layers":[{"mediaType":"m","digest":"` + testDigest + `","size":3}],"subject":{"mediaType":"m","digest":"` + testDigest + `","size":3},"annotations":{"a":"b"}}`,
		`{"schemaVersion":2,"mediaType":"` + MediaTypeIndex + `","artifactType":"t","manifests":[{"mediaType":"m","digest":"` + testDigest + `","size":3}],
		"subject":{"mediaType":"m","digest":"` + testDigest + `","size":3},"annotations":{"a":"b"}}`,
	}
	pairs := [][2]any{{&v1.Image{}, &Config{}}, {&v1.Manifest{}, &Manifest{}}, {&v1.Index{}, &Index{}}}
	for i, p := range pairs {
		var out [2]any
		for j, v := range p {
			if err := json.Unmarshal([]byte(text[i]), v); err != nil {
				t.Fatal(err)
			}
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(b, &out[j]); err != nil {
				t.Fatal(err)
			}
		}
		if !reflect.DeepEqual(out[0], out[1]) {
			t.Errorf("%T keeps\n%v\n%T keeps\n%v", p[0], out[0], p[1], out[1])
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"`+testDigest+`"},"layers":[]}`), true)
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"`+testDigest+`","size":1}]}`), false)
	f.Fuzz(func(t *testing.T, b []byte, manifest bool) {
		m, errM := ParseManifest(b, MediaTypeManifest)
		x, errX := ParseIndex(b, MediaTypeIndex)
		// Refused fields decide, unless there are none: then the body is empty.
		if errM == nil && errX == nil && (len(m.Layers) > 0 || len(x.Manifests) > 0) {
			t.Errorf("%q is a manifest and an index", b)
		}
		if errM == nil {
			for _, l := range append(m.Layers, m.Config) {
				if !validDigest(string(l.Digest)) {
					t.Errorf("%q: digest %q came through", b, l.Digest)
				}
			}
		}
		_, _ = ParseConfig(b, 0)
	})
}

func TestRank(t *testing.T) {
	amd := Platform{OS: "linux", Architecture: "amd64"}
	arm := Platform{OS: "linux", Architecture: "arm64"}
	tests := []struct {
		host  Platform
		p     string
		level int
		want  int
	}{
		{amd, "linux/amd64", 1, 1},
		{amd, "linux/x86_64", 1, 1},
		{amd, "Linux/AMD64", 1, 1},
		{amd, "linux/amd64/v1", 1, 1},
		{amd, "linux/amd64/v3", 3, 3},
		{amd, "linux/amd64/v3", 2, 0},
		{amd, "linux/amd64/v2", 4, 2},
		{amd, "linux/amd64/v5", 4, 0},
		{amd, "linux/386", 4, 0},
		{amd, "windows/amd64", 4, 0},
		{amd, "linux/arm64", 4, 0},
		{amd, "/", 4, 0},
		{arm, "linux/arm64", 1, 1},
		{arm, "linux/arm64/v8", 1, 1},
		{arm, "linux/aarch64/8", 1, 1},
		{arm, "linux/arm64/v9", 1, 0},
		{arm, "linux/arm/v7", 1, 0},
		{arm, "linux/armhf", 1, 0},
	}
	for _, tt := range tests {
		parts := append(strings.Split(tt.p, "/"), "")
		p := Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
		if got := rank(tt.host, p, func() int { return tt.level }); got != tt.want {
			t.Errorf("rank(%s, %s) with level %d = %d, want %d", tt.host, tt.p, tt.level, got, tt.want)
		}
	}
}

func TestLevelFromFlags(t *testing.T) {
	v2 := "\t: fpu cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"
	v3 := v2 + " avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"
	v4 := v3 + " avx512f avx512bw avx512cd avx512dq avx512vl"
	for i, line := range []string{"\t: fpu", v2, v3, v4} {
		if got := levelFromFlags(line); got != i+1 {
			t.Errorf("levelFromFlags(%q) = %d, want %d", line, got, i+1)
		}
	}
	if got := levelFromFlags(strings.Replace(v3, " fma", "", 1)); got != 2 {
		t.Errorf("v3 without fma is level %d, want 2", got)
	}
	if n := cpuLevel(); n < 1 || n > 4 {
		t.Errorf("cpuLevel = %d", n)
	}
}

// blobs serves descriptors from memory.
type blobs map[Digest][]byte

func (m blobs) put(mediaType string, v any) Descriptor {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	d := Descriptor{MediaType: mediaType, Digest: FromBytes(b), Size: int64(len(b))}
	m[d.Digest] = b
	return d
}

func (m blobs) read(what string, d Descriptor, limit int) ([]byte, error) {
	if b, ok := m[d.Digest]; ok {
		return b, nil
	}
	return nil, &MissingError{Object: what, Digest: d.Digest}
}

func (m blobs) image(p Platform) Descriptor {
	cfg := m.put(MediaTypeConfig, Config{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, RootFS: RootFS{Type: "layers", DiffIDs: []Digest{}}})
	d := m.put(MediaTypeManifest, Manifest{SchemaVersion: 2, Config: cfg, Layers: []Descriptor{}})
	d.Platform = &p
	return d
}

func TestLoad_PicksPlatform(t *testing.T) {
	m := blobs{}
	arm := m.image(Platform{OS: "linux", Architecture: "arm64", Variant: "v8"})
	amd := m.image(Platform{OS: "linux", Architecture: "amd64"})
	noPlatform := amd
	noPlatform.Platform = nil
	att := m.image(Platform{OS: "unknown", Architecture: "unknown"})
	index := func(ds ...Descriptor) Descriptor {
		return m.put(MediaTypeIndex, Index{SchemaVersion: 2, Manifests: ds})
	}
	host := Platform{OS: "linux", Architecture: "amd64"}
	artifact := m.put("application/x", map[string]string{})
	deep := index(index(index(index(amd))))
	tests := []struct {
		name   string
		target Descriptor
		want   Digest
		err    string
	}{
		{"first fit", index(att, artifact, arm, amd), amd.Digest, ""},
		{"platform from the config", index(arm, noPlatform), amd.Digest, ""},
		{"nested", index(att, index(index(amd))), amd.Digest, ""},
		{"none fits", index(arm), "", "linux/arm64/v8, this host runs linux/amd64"},
		{"single manifest does not fit", arm, "", "linux/arm64/v8"},
		{"only attestations", index(att), "", "holds no image"},
		{"too deep", deep, "", "nested more than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			img, err := loadFrom(m.read, tt.target, host, true)
			switch {
			case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
				t.Errorf("error %v, want %q", err, tt.err)
			case tt.err == "" && err != nil:
				t.Error(err)
			case tt.err == "" && img.Manifest.Digest != tt.want:
				t.Errorf("picked %s, want %s", img.Manifest.Digest, tt.want)
			}
		})
	}
	// Without strict an image for another platform can be looked at.
	if img, err := loadFrom(m.read, index(arm), host, false); err != nil || img.Config.Architecture != "arm64" {
		t.Errorf("not strict: %v, %v", img, err)
	}
}

// Many references to the same index are followed once: 3 levels of 1000 are
// 1000 reads and not a thousand million.
func TestLoad_WideIndex(t *testing.T) {
	m := blobs{}
	d := m.image(Platform{OS: "linux", Architecture: "arm64"})
	for range 2 {
		list := make([]Descriptor, 1000)
		for i := range list {
			list[i] = d
		}
		d = m.put(MediaTypeIndex, Index{SchemaVersion: 2, Manifests: list})
	}
	reads := 0
	_, err := loadFrom(func(what string, d Descriptor, limit int) ([]byte, error) {
		reads++
		return m.read(what, d, limit)
	}, d, Platform{OS: "linux", Architecture: "amd64"}, true)
	if err == nil || reads > 10 {
		t.Errorf("%v after %d reads", err, reads)
	}
	var wide []Descriptor
	for i := range 900 {
		wide = append(wide, m.put(MediaTypeIndex, Index{SchemaVersion: 2, Manifests: []Descriptor{}, Annotations: map[string]string{"n": fmt.Sprint(i)}}))
	}
	a := m.put(MediaTypeIndex, Index{SchemaVersion: 2, Manifests: wide[:500]})
	b := m.put(MediaTypeIndex, Index{SchemaVersion: 2, Manifests: wide[400:], Annotations: map[string]string{"b": ""}})
	many := append(wide[:300:300], a, b)
	for i := range 200 {
		many = append(many, m.image(Platform{OS: "linux", Architecture: "arm64", Variant: fmt.Sprint(i)}))
	}
	_, err = loadFrom(m.read, m.put(MediaTypeIndex, Index{SchemaVersion: 2, Manifests: many}), Platform{OS: "linux", Architecture: "amd64"}, true)
	var fe *FormatError
	if !errors.As(err, &fe) {
		t.Errorf("more than %d manifests: %v, want a FormatError", MaxEntries, err)
	}
}
