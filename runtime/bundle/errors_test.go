package bundle

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestParse_ErrorText(t *testing.T) {
	tests := []struct{ doc, want string }{
		{"", "config.json:1:1: want an object, got the end of the file"},
		{"[]", "config.json:1:1: want an object, got an array"},
		{"{\n\t\"linux\": {\n\t\t\"resources\": {\n\t\t\t\"cpu\": {\"quota\": \"1\"}}}}", "config.json:4:21: linux.resources.cpu.quota: want a number, got a string"},
		{`{"mounts":[{},{},{},{"options":[true]}]}`, "config.json:1:33: mounts[3].options[0]: want a string, got a bool"},
		{`{"mounts":{}}`, "config.json:1:11: mounts: want an array, got an object"},
		{`{"process":{"user":{"uid":-1}}}`, "config.json:1:27: process.user.uid: want an integer between 0 and 4294967295, got -1"},
		{`{"process":{"user":{"uid":1.5}}}`, "config.json:1:27: process.user.uid: want an integer, got 1.5"},
		{`{"process":{"oomScoreAdj":99999999999999999999}}`, "config.json:1:27: process.oomScoreAdj: want an integer between -9223372036854775808 and 9223372036854775807, got 99999999999999999999"},
		{`{"process":{"terminal":"yes"}}`, "config.json:1:24: process.terminal: want true or false, got a string"},
		{`{"annotations":{"io.x/y":1}}`, `config.json:1:26: annotations["io.x/y"]: want a string, got a number`},
		{`{"hostname":"a"} {}`, "config.json:1:18: want nothing more after the document, got an object"},
		{"{\n \"hostname\": \"a\"\n \"root\": {}\n}", "config.json:3:2: hostname: want ',' or '}', got a string"},
		{`{"root":{"path":"a",}}`, "config.json:1:21: root: want a key in double quotes, got '}'"},
		{`{"windows":{"x":[1,2}}`, "config.json:1:21: windows.x[1]: want ',' or ']', got '}'"},
	}
	for _, tt := range tests {
		_, err := Parse([]byte(tt.doc))
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s\ngot  %v\nwant %s", tt.doc, err, tt.want)
		}
		var field *FieldError
		if !errors.As(err, &field) {
			t.Errorf("%s: %T, want a *FieldError", tt.doc, err)
		}
	}
}

func TestParseProcess(t *testing.T) {
	p, err := ParseProcess([]byte(`{"args":["a"],"cwd":"/"}`))
	if err != nil || p.Args[0] != "a" || p.Cwd != "/" {
		t.Errorf("got %+v, %v", p, err)
	}
	const want = "process:1:10: args[0]: want a string, got a number"
	if _, err := ParseProcess([]byte(`{"args":[1]}`)); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestParseResources(t *testing.T) {
	r, err := ParseResources([]byte(`{"memory":{"limit":-1},"cpu":{"shares":0}}`))
	if err != nil || *r.Memory.Limit != -1 || *r.CPU.Shares != 0 || r.CPU.Quota != nil {
		t.Errorf("got %+v, %v", r, err)
	}
	const want = "resources:1:20: memory.limit: want a number, got a bool"
	if _, err := ParseResources([]byte(`{"memory":{"limit":true}}`)); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestParseMounts(t *testing.T) {
	for text, want := range map[string]string{
		` [{"destination":"/a","options":["bind"]},{"destination":"/b"}]`: "/a /b ",
		`{"mounts":[{"destination":"/a"}],"other":1}`:                     "/a ",
		"\n\t[]":                 "",
		`{}`:                     "",
		`null`:                   "",
		``:                       "error",
		` `:                      "error",
		`[1]`:                    "error",
		`[{"destination":1}]`:    "error",
		`[{"destination":"/a"}`:  "error",
		`[{"destination":""}] x`: "error",
		`{"mounts":1}`:           "error",
	} {
		list, err := ParseMounts([]byte(text))
		got := ""
		for _, m := range list {
			got += m.Destination + " "
		}
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s: %q %v, want %q", text, got, err, want)
		}
	}
	err := ValidateMounts([]specs.Mount{{Destination: "/a"}, {Destination: "\x00", Type: "bind"}})
	if err == nil || !strings.Contains(err.Error(), "mounts[1].destination") || !strings.Contains(err.Error(), "mounts[1].source") {
		t.Errorf("%v", err)
	}
}
