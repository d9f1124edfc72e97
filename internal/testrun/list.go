package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"path/filepath"
	"slices"
	"strings"
)

// testPackage is a package with selected tests.
type testPackage struct {
	ImportPath   string
	Dir          string
	TestGoFiles  []string
	XTestGoFiles []string
	tests        []string
}

// listTests returns the packages that have test functions with the given prefix.
// It reads sources, since linking every package's test binary only to ask it for
// names takes minutes.
func listTests(ctx context.Context, o *options, prefix string) ([]testPackage, error) {
	args := append([]string{"list", "-e", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles"}, o.packages...)
	cmd := command(ctx, "go", args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w\n%s", err, errs.String())
	}
	var found []testPackage
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p testPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return found, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		for _, name := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			names, err := testNames(filepath.Join(p.Dir, name), prefix)
			if err != nil {
				// The compiler will say more; the package must not drop out of the count.
				names = []string{prefix + "?"}
			}
			p.tests = append(p.tests, names...)
		}
		if len(p.tests) > 0 {
			found = append(found, p)
		}
	}
}

// testNames returns the test functions of one file whose names begin with prefix.
func testNames(file, prefix string) ([]string, error) {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, prefix) && len(fn.Type.Params.List) == 1 {
			names = append(names, fn.Name.Name)
		}
	}
	return names, nil
}
