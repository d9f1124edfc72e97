package jsonread

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// readAny decodes a value the way encoding/json does into an any, with numbers
// as json.Number.
func readAny(r *Reader) any {
	switch r.peek() {
	case '{':
		m := map[string]any{}
		for key, ok := r.Object(); ok; key, ok = r.NextKey() {
			m[key] = readAny(r)
		}
		return m
	case '[':
		s := []any{}
		for ok := r.Array(); ok; ok = r.NextElem() {
			s = append(s, readAny(r))
		}
		return s
	case '"':
		var s string
		r.String(&s)
		return s
	case 't', 'f':
		var b bool
		r.Bool(&b)
		return b
	case 'n':
		r.Null()
		return nil
	}
	return json.Number(r.Raw())
}

func same(t *testing.T, doc []byte) {
	t.Helper()
	r := New(doc)
	got := readAny(&r)
	err := r.End()

	d := json.NewDecoder(strings.NewReader(string(doc)))
	d.UseNumber()
	var want any
	wantErr := d.Decode(&want)
	if !json.Valid(doc) {
		wantErr = json.Unmarshal(doc, &want)
	}
	if (err != nil) != (wantErr != nil) {
		t.Fatalf("%q\ngot error  %v\nwant error %v", doc, err, wantErr)
	}
	if err == nil && !reflect.DeepEqual(got, want) {
		t.Fatalf("%q\ngot  %#v\nwant %#v", doc, got, want)
	}

	skip := New(doc)
	skip.Skip()
	if skipErr := skip.End(); (skipErr != nil) != (err != nil) {
		t.Fatalf("%q: Skip says %v, reading %v", doc, skipErr, err)
	}
	if err != nil {
		e := err.(*Error)
		if e.Offset < 0 || e.Offset > len(doc) || e.Line < 1 || e.Column < 1 || e.Msg == "" {
			t.Fatalf("%q: %+v", doc, e)
		}
	}
}

var documents = []string{
	``, ` `, `null`, `nul`, `nulll`, `true`, `fals`, `True`, `{}`, `[]`, `{`, `[`, `}`, `]`, `{}}`, `[]]`, `{]`, `[}`, `{} {}`,
	`[1,]`, `[,1]`, `{"a":1,}`, `{,}`, `{"a"}`, `{"a":}`, `{"a" 1}`, `{a:1}`, `{1:1}`, `{"a":1 "b":2}`, `[1 2]`, `{"a":1,"a":2}`,
	`0`, `-0`, `00`, `01`, `-`, `-a`, `1.`, `.1`, `1.5`, `1e`, `1e+`, `1e5`, `1E-5`, `+1`, `1.e5`, `0x10`, `NaN`, `Infinity`,
	`"`, `"a`, `""`, `"\"`, `"\\"`, `"\q"`, `"\'"`, `"\u12"`, `"\u123g"`, `"\u00e9"`, `"\ud83d\ude00"`, `"\ud83d"`, `"\ude00"`,
	`"\ud83d\u0041"`, `"\ud83dx"`, `"\ud83d\ud83d\ude00"`, `"\/\b\f\n\r\t"`, "\"\n\"", "\"\x1f\"", "\"\x7f\"", "\"\x00\"", "\x00", "[1,\x00]",
	"\"\xff\"", "\"a\xc3\"", "\"\xed\xa0\x80\"", "\"\xf0\x9f\x98\x80\"", "\"\u2028\"", "{\"\xff\":1,\"\xfe\":2}", "\ufeff{}",
	`"12345678"`, `"1234567\n"`, `"12345678\n9"`, `"1234567` + "\x01" + `"`, "\"1234567\u00e9\"", "\"12345678\xff12345678\"",
	" \t\r\n{ \"a\" : [ 1 , true , null , \"x\" ] } ", "\v{}", "\u00a0{}", `{"\u0061":1}`,
}

func TestReader_AsEncodingJSON(t *testing.T) {
	for _, doc := range documents {
		same(t, []byte(doc))
	}
}

func TestReader_Depth(t *testing.T) {
	for _, n := range []int{MaxDepth - 1, MaxDepth, MaxDepth + 1, 10 * MaxDepth} {
		same(t, []byte(strings.Repeat("[", n)+strings.Repeat("]", n)))
		same(t, []byte(strings.Repeat(`{"a":`, n)+"1"+strings.Repeat("}", n)))
		same(t, []byte(strings.Repeat(`[{"a":`, n/2)+"1"+strings.Repeat("}]", n/2)))
	}
	// Leaving must count too: siblings are not depth.
	same(t, []byte("["+strings.Repeat("[],", 2*MaxDepth)+"[]]"))
}

func FuzzReader(f *testing.F) {
	for _, doc := range documents {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) { same(t, doc) })
}

func TestReader_Integers(t *testing.T) {
	type all struct {
		I   int
		I32 int32
		I64 int64
		U   uint
		U16 uint16
		U32 uint32
		U64 uint64
	}
	fields := []string{"I", "I32", "I64", "U", "U16", "U32", "U64"}
	values := []string{
		"0", "-0", "1", "-1", "65535", "65536", "2147483647", "2147483648", "-2147483648", "-2147483649",
		"4294967295", "4294967296", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
		"-9223372036854775809", "18446744073709551615", "18446744073709551616", "18446744073709551625", "99999999999999999999",
		"100000000000000000000", "-100000000000000000000", "1.0", "1e3", "1E0", "0.5", "null", `"1"`, "true", "[]", "{}", "01", "-", "--1",
	}
	for _, field := range fields {
		for _, value := range values {
			doc := []byte(`{"` + field + `":` + value + `}`)
			got, want := all{I: 7, U64: 7}, all{I: 7, U64: 7}
			r := New(doc)
			for key, ok := r.Object(); ok; key, ok = r.NextKey() {
				switch key {
				case "I":
					r.Int(&got.I)
				case "I32":
					r.Int32(&got.I32)
				case "I64":
					r.Int64(&got.I64)
				case "U":
					r.Uint(&got.U)
				case "U16":
					r.Uint16(&got.U16)
				case "U32":
					r.Uint32(&got.U32)
				case "U64":
					r.Uint64(&got.U64)
				}
			}
			err, wantErr := r.End(), json.Unmarshal(doc, &want)
			if (err != nil) != (wantErr != nil) || err == nil && got != want {
				t.Errorf("%s: got %+v, %v; want %+v, %v", doc, got, err, want, wantErr)
			}
		}
	}
}

func TestReader_FirstErrorStays(t *testing.T) {
	r := New([]byte(`{"a":1,"b":2}`))
	var s string
	r.Object()
	r.String(&s)
	first := r.Err()
	if _, ok := r.NextKey(); ok {
		t.Error("reads on after an error")
	}
	r.Fail(0, "later")
	r.Skip()
	if err := r.End(); first == nil || err != first {
		t.Errorf("got %v, want %v", err, first)
	}
}

func TestReader_StringsAlias(t *testing.T) {
	doc := []byte(`["plain value", "esc\u0061ped"]`)
	r := New(doc)
	var a, b string
	r.Array()
	r.String(&a)
	r.NextElem()
	r.String(&b)
	doc[2], doc[17] = 'P', 'E'
	if a != "Plain value" || b != "escaped" {
		t.Errorf("got %q and %q: want the first to point into the input, the second not to", a, b)
	}
}

func TestReader_LenHint(t *testing.T) {
	for doc, want := range map[string]int{`["a"]`: 1, `["a","b","c"]`: 3, `["a,b"]`: 2, `["]","b"]`: 1, `[`: 1} {
		r := New([]byte(doc))
		r.Array()
		if got := r.LenHint(); got != want {
			t.Errorf("%s: got %d, want %d", doc, got, want)
		}
	}
}

func TestFold(t *testing.T) {
	const names = "uid,disableOOMKiller,process"
	for key, want := range map[string]string{
		"UID": "uid", "uid": "uid", "disableoomkiller": "disableOOMKiller", "di\u017fable\u004fOM\u212AILLER": "disableOOMKiller",
		"procesſ": "process", "": "", "ui": "", "uidd": "", "uid,disableOOMKiller": "",
	} {
		if got := Fold(key, names); got != want {
			t.Errorf("Fold(%q): got %q, want %q", key, got, want)
		}
	}
}
