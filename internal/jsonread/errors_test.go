package jsonread

import (
	"strings"
	"testing"
)

func TestError_Text(t *testing.T) {
	tests := []struct{ doc, want string }{
		{``, `1:1: want a value, got the end of the file`},
		{`{"a": nul}`, `1:7: a: want null, got 'n'`},
		{"{\n\t\"a\": {\n\t\t\"b\": [1, {\"c\": x}]}}", `3:18: a.b[1].c: want a value, got 'x'`},
		{`{"a":1 "b":2}`, `1:8: a: want ',' or '}', got a string`},
		{`[1, 2`, `1:6: [1]: want ',' or ']', got the end of the file`},
		{`{"a":1,}`, `1:8: want a key in double quotes, got '}'`},
		{`{"a" 1}`, `1:6: a: want ':' after the key, got a number`},
		{`{"a":1} x`, `1:9: want nothing more after the document, got 'x'`},
		{"{\"\u00e9\u00e9\": \"\n\"}", `1:9: ["éé"]: control character '\n' in a string: write it as an escape, or close the string`},
		{`{"com.example/x": "\q"}`, `1:20: ["com.example/x"]: invalid escape \q in a string`},
		{`["\u12"]`, `1:3: [0]: invalid escape \u12\"] in a string`},
		{`["a`, `1:4: [0]: the file ends inside a string`},
		{`[[], [[1, -]]]`, `1:12: [1][0][1]: want a digit, got ']'`},
		{"\ufeff{}", `1:1: want a value, got a byte order mark`},
		{"[\xff]", `1:2: [0]: want a value, got byte 0xff`},
		{`{"a":{"b":1},"c":[{},{"d":"]}"},?]}`, `1:33: c[2]: want a value, got '?'`},
		{`{"a":"\"}{",?`, `1:13: want a key in double quotes, got '?'`},
	}
	for _, tt := range tests {
		r := New([]byte(tt.doc))
		r.Skip()
		if err := r.End(); err == nil || err.Error() != tt.want {
			t.Errorf("%s\ngot  %v\nwant %s", tt.doc, err, tt.want)
		}
	}
}

func TestError_LongPathIsCut(t *testing.T) {
	r := New([]byte(strings.Repeat(`{"abcdefgh":`, MaxDepth) + "x"))
	r.Skip()
	if e := r.End().(*Error); len(e.Path) > maxPath+3 || !strings.HasSuffix(e.Path, "...") {
		t.Errorf("path of %d bytes: %s", len(e.Path), e.Path)
	}
}

func TestError_LongNumberIsCut(t *testing.T) {
	for _, doc := range []string{"1." + strings.Repeat("0", 1000), "1e" + strings.Repeat("0", 1000), strings.Repeat("9", 1000), "-" + strings.Repeat("9", 1000)} {
		for name, read := range map[string]func(*Reader){
			"int64":  func(r *Reader) { r.Int64(new(int64)) },
			"uint16": func(r *Reader) { r.Uint16(new(uint16)) },
		} {
			r := New([]byte(doc))
			read(&r)
			if err := r.End(); err == nil || len(err.Error()) > 200 {
				t.Errorf("%s of %.10s...: %v", name, doc, err)
			}
		}
	}
}

func TestLocate(t *testing.T) {
	doc := []byte(`{"a": 1, "b": {"c": [true, {"d": "x]"}], "e.f": null}, "a": 2}`)
	wants := map[string]string{
		"": `{"a"`, "a": "2", "b": `{"c"`, "b.c": "[true", "b.c[0]": "true", "b.c[1]": `{"d"`, "b.c[1].d": `"x]"`, `b["e.f"]`: "null",
	}
	at := map[string]int{"b.x": -1, "b.c[2]": -1}
	for path := range wants {
		at[path] = -1
	}
	Locate(doc, at)
	for path, offset := range at {
		if want, ok := wants[path]; !ok && offset != -1 {
			t.Errorf("%q: found at %d", path, offset)
		} else if ok && (offset < 0 || !strings.HasPrefix(string(doc[offset:]), want)) {
			t.Errorf("%q: got %d, want the offset of %s", path, offset, want)
		}
	}
}
