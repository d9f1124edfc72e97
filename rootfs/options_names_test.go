package rootfs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"
)

// Every option that the code has a case for is listed.
func TestMountOptions(t *testing.T) {
	names := MountOptions()
	file, err := parser.ParseFile(token.NewFileSet(), "options.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	cases := 0
	ast.Inspect(file, func(n ast.Node) bool {
		clause, ok := n.(*ast.CaseClause)
		if !ok {
			return true
		}
		for _, e := range clause.List {
			lit, ok := e.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				continue
			}
			name, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			cases++
			if name != "" && !slices.Contains(names, name) {
				t.Errorf("%q is an option and not in the list", name)
			}
		}
		return true
	})
	if cases < 40 {
		t.Errorf("%d cases found", cases)
	}
	for _, n := range []string{"rro", "rnosuid", "rprivate", "rbind", "ridmap"} {
		if !slices.Contains(names, n) {
			t.Errorf("%q is not in the list", n)
		}
	}
	for _, n := range names {
		if o := parseOptions([]string{n}); len(o.data) != 0 {
			t.Errorf("%q is passed to the file system", n)
		}
	}
	if !slices.IsSorted(names) || len(names) != len(slices.Compact(slices.Clone(names))) {
		t.Errorf("%q", names)
	}
}
