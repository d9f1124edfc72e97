package bundle

import (
	"encoding/json"
	"reflect"
	"testing"

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
