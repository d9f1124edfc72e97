package jsonread

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"
)

func stdString(t *testing.T, s string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}

func checkString(t *testing.T, s string) {
	t.Helper()
	got := AppendString([]byte("x"), s)
	if want := "x" + stdString(t, s); string(got) != want {
		t.Errorf("%q: got %s, want %s", s, got, want)
	}
}

func TestAppendString(t *testing.T) {
	for c := range 256 {
		checkString(t, "a"+string([]byte{byte(c)})+"b")
		checkString(t, string(rune(c)))
	}
	for _, s := range []string{"", "<>&", "\u2027\u2028\u2029\u202a", "\ufffd", "\xed\xa0\x80", "\U0001f600", "\xf0\x9f"} {
		checkString(t, s)
	}
}

func FuzzAppendString(f *testing.F) {
	f.Add("a\"\\\x00\u2028\xff")
	f.Fuzz(func(t *testing.T, s string) { checkString(t, s) })
}

func TestAppendTime(t *testing.T) {
	for _, at := range []time.Time{{}, time.Unix(1, 5).UTC(), time.Date(2026, 1, 2, 3, 4, 5, 600, time.FixedZone("", -3600))} {
		want, err := at.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if got := AppendTime(nil, at); string(got) != string(want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestAppend_Document(t *testing.T) {
	b := append([]byte(nil), '{')
	b = AppendInt(AppendKey(b, "a"), -1)
	b = AppendUint(AppendKey(b, "b"), 1<<64-1)
	b = append(AppendKey(b, "c"), '[')
	for _, v := range []bool{true, false} {
		b = AppendBool(AppendComma(b), v)
	}
	b = append(b, ']', '}')
	if want := `{"a":-1,"b":18446744073709551615,"c":[true,false]}`; string(b) != want {
		t.Errorf("got %s, want %s", b, want)
	}
}

func TestAppendIndent(t *testing.T) {
	for _, doc := range []string{`{}`, `[]`, `1`, `{"a":{},"b":[],"c":[1,"x{[,:\"]",{"d":null}]}`, ` { "a" : [ ] , "b" : { } } `} {
		var want bytes.Buffer
		if err := json.Indent(&want, bytes.TrimSpace([]byte(doc)), "", "\t"); err != nil {
			t.Fatal(err)
		}
		if got := AppendIndent(nil, []byte(doc)); string(got) != want.String() {
			t.Errorf("%s\ngot  %s\nwant %s", doc, got, want.String())
		}
	}
}
