package seccomp

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func mustCompile(t testing.TB, p *specs.LinuxSeccomp, goarch string) *Filter {
	t.Helper()
	f, err := Compile(p, goarch)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func run(t testing.TB, f *Filter, d data) uint32 {
	t.Helper()
	a, _, err := simulate(f, d)
	if err != nil {
		t.Fatalf("%+v: %v\n%s", d, err, Disassemble(f))
	}
	return a
}

func ptr(v uint) *uint { return &v }
