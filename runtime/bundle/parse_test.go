package bundle

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// byReflection is the reference: encoding/json, less what Parse leaves out.
func byReflection(raw []byte) (*specs.Spec, error) {
	s := new(specs.Spec)
	if err := json.Unmarshal(raw, s); err != nil {
		return nil, err
	}
	s.Solaris, s.Windows, s.VM, s.ZOS, s.FreeBSD = nil, nil, nil, nil, nil
	return s, nil
}

// same fails unless both decoders refuse raw or agree about it. A wrong value
// inside a foreign block is the one thing that only encoding/json refuses.
func same(t *testing.T, raw []byte) {
	t.Helper()
	got, err := Parse(raw)
	if err != nil && (strings.Contains(err.Error(), "given twice") || !utf8.Valid(raw)) {
		return // see TestParse_Ambiguous
	}
	want, wantErr := byReflection(raw)
	if (err != nil) != (wantErr != nil) {
		t.Errorf("%s\nParse: %v\nencoding/json: %v", raw, err, wantErr)
	} else if err == nil && !reflect.DeepEqual(got, want) {
		t.Errorf("%s\ngot  %+v\nwant %+v", raw, got, want)
	}
}

// fill sets everything v holds, with values that never repeat.
func fill(v reflect.Value, n *int) {
	switch v.Interface().(type) {
	case *specs.Solaris, *specs.Windows, *specs.VM, *specs.ZOS, *specs.FreeBSD:
		return
	}
	*n++
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString("s\u00fc\"\n" + string(rune('a'+*n%26)) + string(rune(0x4e00+*n)))
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(-*n))
	case reflect.Uint, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 2 {
			key, elem := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(key, n)
			fill(elem, n)
			v.SetMapIndex(key, elem)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	default:
		panic(v.Kind().String())
	}
}

// full returns a spec in which every field for Linux is set.
func full() *specs.Spec {
	s, n := new(specs.Spec), 0
	fill(reflect.ValueOf(s).Elem(), &n)
	return s
}

func TestParse_EveryField(t *testing.T) {
	want := full()
	raw, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("a full spec does not survive:\n%s", raw)
	}
	same(t, raw)
}

func TestAppendJSON_EveryField(t *testing.T) {
	for _, s := range []*specs.Spec{full(), {}, {Linux: &specs.Linux{Seccomp: &specs.LinuxSeccomp{Syscalls: []specs.LinuxSyscall{{}}}}}} {
		got, err := AppendJSON(nil, s)
		if err != nil {
			t.Fatal(err)
		}
		want, err := json.MarshalIndent(s, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
}

// oddDocuments are what a rule of encoding/json applies to.
var oddDocuments = []string{
	``, `null`, `{}`, `[]`, `"x"`, `1`, `true`, `{} x`, `{}{}`, ` {} `, `{"ociVersion":"1.0.2"`, `{"linux":{"resources":{}}`,
	// Unknown keys, and known ones in another case; the exact one is preferred only by order.
	`{"x":{"y":[1,{"z":null}]},"ociVersion":"1"}`, `{"OCIVERSION":"1"}`,
	`{"proce\u017f\u017f":{"cwd":"/"}}`, `{"linux":{"\u212aey":1,"mas\u212aedPaths":["a"]}}`, `{"\u006fciVersion":"1"}`, `{"":1}`,
	`{"process":{"user":{"UID":1,"Gid":2}}}`, `{"Linux":{"Resources":{"CPU":{"Shares":1}}}}`,
	// null wherever there is something.
	`{"ociVersion":null,"process":null,"mounts":null,"hooks":null,"annotations":null,"linux":null}`,
	`{"process":{"terminal":null,"args":[null],"user":{"uid":null,"umask":null},"oomScoreAdj":null,"capabilities":{"bounding":null}}}`,
	`{"mounts":[null,{"options":null},null]}`, `{"linux":{"devices":[{"fileMode":null,"major":null}],"seccomp":{"defaultAction":null,"syscalls":[null]}}}`,
	// Embedded struct, named types, empty arrays.
	`{"linux":{"resources":{"blockIO":{"weightDevice":[{"major":8,"minor":1,"weight":10}],"throttleReadBpsDevice":[{"MAJOR":8,"rate":5,"LinuxBlockIODevice":{"minor":3}}]}}}}`,
	`{"linux":{"devices":[{"fileMode":438}],"seccomp":{"architectures":[],"flags":["a"]},"personality":{"domain":"LINUX","flags":[]}}}`,
	`{"process":{"args":[]},"mounts":[],"linux":{"namespaces":[],"uidMappings":[]}}`,
	// Strings.
	`{"hostname":"\ud83d\ude00\ud83d"}`, `{"hostname":"a\u0000b"}`, "{\"hostname\":\"a\nb\"}",
	`{"process":{"args":["a,b","]","[","\"",",,,,"]}}`,
	// Numbers.
	`{"process":{"user":{"uid":4294967296}}}`, `{"process":{"user":{"uid":-1}}}`, `{"process":{"user":{"uid":-0}}}`, `{"process":{"user":{"uid":1.0}}}`, `{"process":{"user":{"uid":1e2}}}`,
	`{"process":{"oomScoreAdj":-0}}`, `{"linux":{"resources":{"memory":{"limit":9223372036854775808}}}}`, `{"linux":{"resources":{"blockIO":{"weight":65536}}}}`,
	// Blocks of other platforms, right or broken.
	`{"windows":{"layerFolders":["a"]},"solaris":{},"vm":{"kernel":{"path":"/k"}},"zos":null,"freebsd":{"jail":{}}}`, `{"windows":{"layerFolders":[}}`,
}

func TestParse_OddDocuments(t *testing.T) {
	for _, doc := range oddDocuments {
		same(t, []byte(doc))
	}
}

// TestParse_Ambiguous are the other documented differences: what encoding/json
// accepts, but one reader takes for something else than another.
func TestParse_Ambiguous(t *testing.T) {
	for _, tt := range []struct{ doc, want string }{
		{`{"root":{"path":"a"},"root":{"readonly":true}}`, `config.json:1:29: root: given twice`},
		{`{"root":{"path":"a"},"root":null}`, `config.json:1:29: root: given twice`},
		{`{"ociversion":"1","ociVersion":"2"}`, `config.json:1:32: ociVersion: given twice`},
		{`{"ociVersion":"2", "OCIVERSION" : "1"}`, `config.json:1:35: OCIVERSION: given twice`},
		{`{"process":{"args":["a"],"cwd":"/","args":["b"]}}`, `config.json:1:43: process.args: given twice`},
		{`{"process":{"user":{"uid":1000,"uid":0}}}`, `config.json:1:38: process.user.uid: given twice`},
		{`{"annotations":{"a":"1","b":"2","a":"3"}}`, `config.json:1:37: annotations.a: given twice`},
		{`{"annotations":{"a":"1","\u0061":"3"}}`, `config.json:1:34: annotations.a: given twice`},
		{`{"linux":{"timeOffsets":{"boottime":{"secs":1},"boottime":{"secs":3}}}}`, `config.json:1:59: linux.timeOffsets.boottime: given twice`},
		{`{"linux":{"resources":{"blockIO":{"weightDevice":[{"major":8,"minor":1,"major":9}]}}}}`, `config.json:1:80: linux.resources.blockIO.weightDevice[0].major: given twice`},
		{"{\"hostname\":\"ü\xff\"}", `config.json:1:15: byte "\xff" is not UTF-8`},
		{"{\n \"annotations\":{\"\xc3(\":\"a\"}}", `config.json:2:18: byte "\xc3" is not UTF-8`},
	} {
		if _, err := byReflection([]byte(tt.doc)); err != nil {
			t.Errorf("%s: encoding/json refuses it: not a difference any more", tt.doc)
		}
		if _, err := Parse([]byte(tt.doc)); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.doc, err, tt.want)
		}
	}
	// The same name in another object is another member.
	if _, err := Parse([]byte(`{"mounts":[{"source":"a"},{"source":"b"}],"x":1,"x":2}`)); err != nil {
		t.Error(err)
	}
}

// TestParse_ForeignBlocks is the documented difference: a value of the wrong
// type in a block that no Linux runtime reads is not an error.
func TestParse_ForeignBlocks(t *testing.T) {
	for _, block := range []string{"solaris", "windows", "vm", "zos", "freebsd"} {
		raw := []byte(`{"ociVersion":"1.0.0","` + block + `":[1]}`)
		if _, err := byReflection(raw); err == nil {
			t.Errorf("%s: encoding/json accepts it: not a difference any more", raw)
		}
		if s, err := Parse(raw); err != nil || s.Version != "1.0.0" {
			t.Errorf("%s: %v, %v", raw, s, err)
		}
	}
}

// TestParse_WrongTypes puts a value of every kind in the place of every value
// of a full document; both decoders must agree on each.
func TestParse_WrongTypes(t *testing.T) {
	raw, err := json.Marshal(full())
	if err != nil {
		t.Fatal(err)
	}
	var doc any
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	n, refused := 0, 0
	var replace func(v any, set func(any))
	replace = func(v any, set func(any)) {
		for _, wrong := range []any{nil, true, "x", 1, -1, 1e30, 1.5, []any{}, []any{1}, []any{nil}, []any{"x"}, map[string]any{}, map[string]any{"x": 1}} {
			set(wrong)
			raw, err := json.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			same(t, raw)
			if _, err := Parse(raw); err != nil {
				refused++
			}
			n++
		}
		set(v)
		switch v := v.(type) {
		case map[string]any:
			for key, elem := range v {
				replace(elem, func(x any) { v[key] = x })
			}
		case []any:
			replace(v[0], func(x any) { v[0] = x })
		}
	}
	// One part of the document at a time: the rest only costs time.
	for key, part := range doc.(map[string]any) {
		if key != "linux" {
			whole := doc
			doc = map[string]any{key: part}
			replace(part, func(x any) { doc.(map[string]any)[key] = x })
			doc = whole
			continue
		}
		for sub, elem := range part.(map[string]any) {
			whole, inner := doc, map[string]any{sub: elem}
			doc = map[string]any{"linux": inner}
			replace(elem, func(x any) { inner[sub] = x })
			doc = whole
		}
	}
	if n < 3000 || refused < n/2 {
		t.Errorf("%d documents, %d refused: the test has lost its teeth", n, refused)
	}
}

func FuzzParse(f *testing.F) {
	for _, doc := range oddDocuments {
		f.Add([]byte(doc))
	}
	for _, s := range []*specs.Spec{full(), Default(), dockerSpec()} {
		raw, err := json.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := Parse(raw)
		want, wantErr := byReflection(raw)
		if err == nil && wantErr != nil && foreignError(wantErr) {
			return
		}
		if (err != nil) != (wantErr != nil) {
			t.Fatalf("Parse: %v\nencoding/json: %v", err, wantErr)
		}
		if err == nil && !reflect.DeepEqual(got, want) {
			t.Fatalf("got  %+v\nwant %+v", got, want)
		}
	})
}

// foreignError reports whether encoding/json found a wrong type in a block of
// another platform.
func foreignError(err error) bool {
	var e *json.UnmarshalTypeError
	if !errors.As(err, &e) {
		return false
	}
	block, _, _ := strings.Cut(e.Field, ".")
	switch block {
	case "solaris", "windows", "vm", "zos", "freebsd":
		return true
	}
	return false
}
