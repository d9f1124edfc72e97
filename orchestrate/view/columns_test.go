package view

import (
	"encoding/json"
	"strings"
	"testing"
)

func decoded(t *testing.T, text string) any {
	t.Helper()
	var doc any
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestColumns(t *testing.T) {
	doc := decoded(t, `{"a":{"n":12345678,"f":0.5,"t":true,"z":null,"m":{"y":1,"x":"\u001b[2J"},"l":[1,"b"],"e":""},"items":[{"name":"x"},{"name":"y"}]}`)
	for path, want := range map[string]string{
		"a.n": "12345678", ".a.n": "12345678", "{.a.n}": "12345678", "{a.f}": "0.5", ".a.t": "true", ".a.z": "<nil>", ".a.m": "map[x:?[2J y:1]", ".a.l": "[1 b]", ".a.e": "",
		".none": "<none>", ".none.below": "<none>", ".items[*].name": "x,y", ".items[0,1].name": "x,y", "..name": "x,y",
	} {
		columns, err := ParseColumns("FIRST:.a.n,x:" + path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		line, err := Line(columns, doc)
		if err != nil || len(line) != 2 || line[0] != "12345678" || line[1] != want || columns[1].Title != "x" {
			t.Errorf("%s: %q, %v, want %q", path, line, err, want)
		}
	}
	for _, spec := range []string{"", "A", "A:", ":.a", "A:.a,", "A:{.a", "A:.a}{.b", "A:.l[x", "A:{}"} {
		if _, err := ParseColumns(spec); err == nil {
			t.Errorf("%q is taken", spec)
		}
	}
}

func TestSortBy(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`3 10 2`, `2 3 10`},
		{`"3" "10" "2"`, `"2" "3" "10"`},
		{`"1Gi" "2Mi" "500Ki"`, `"500Ki" "2Mi" "1Gi"`},
		{`"web-9" "web-10" "1" "api"`, `"1" "api" "web-10" "web-9"`},
		{`"2026-01-02T03:04:05Z" "2025-12-31T00:00:00Z"`, `"2025-12-31T00:00:00Z" "2026-01-02T03:04:05Z"`},
		{`"b" null "a"`, `null "a" "b"`},
		{`true false`, `false true`},
	} {
		var items []any
		for v := range strings.FieldsSeq(c.in) {
			items = append(items, decoded(t, `{"v":`+v+`}`))
		}
		p, err := ParsePath("{.v}")
		if err != nil {
			t.Fatal(err)
		}
		if err := SortBy(p, items, func(o any) any { return o }); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, o := range items {
			got = append(got, string(must(json.Marshal(o.(map[string]any)["v"]))))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %s, want %s", c.in, got, c.want)
		}
	}
	p, err := ParsePath("metadata.none")
	if err != nil {
		t.Fatal(err)
	}
	items := []any{map[string]any{}}
	if err := SortBy(p, items, func(o any) any { return o }); err == nil {
		t.Error("objects without the field are sorted by it")
	}
	// One that has it is enough; equal ones stay as they were.
	items = []any{map[string]any{"metadata": map[string]any{"none": "x"}}, map[string]any{"a": 1}, map[string]any{"a": 2}}
	if err := SortBy(p, items, func(o any) any { return o }); err != nil || len(items[2].(map[string]any)) != 1 || items[0].(map[string]any)["a"] != 1 || items[1].(map[string]any)["a"] != 2 {
		t.Errorf("%v, %v", items, err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
