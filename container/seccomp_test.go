package container

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	goruntime "runtime"
	"strings"
	"testing"

	"github.com/minirun/minirun/imagestore/unpacked"
	"github.com/minirun/minirun/internal/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var testHost = host{goarch: "amd64", kernel: [2]int{6, 2}, caps: []string{"CAP_CHOWN", "CAP_SYS_TIME"}}

// The rules of docker's format that are meant for the host are those that moby's
// profiles/seccomp picks.
func TestDockerProfile(t *testing.T) {
	const profile = `{
	"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
	"archMap": [
		{"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
		{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}
	],
	"syscalls": [
		{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "comment": "basics", "includes": {}, "excludes": {}},
		{"name": "old", "action": "SCMP_ACT_ALLOW", "args": null},
		{"names": ["arm"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm", "arm64"]}},
		{"names": ["intel"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
		{"names": ["no-intel"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64"]}},
		{"names": ["time"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_TIME"]}},
		{"names": ["both"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_TIME", "CAP_SYS_ADMIN"]}},
		{"names": ["admin"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
		{"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}, "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
		{"names": ["unless-time"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN", "CAP_SYS_TIME"]}},
		{"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
		{"names": ["now"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.2"}},
		{"names": ["future"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.10"}},
		{"names": ["past"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "4.8"}},
		{"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}}
	]}`
	p, err := parseProfile([]byte(profile), testHost)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range p.Syscalls {
		names = append(names, strings.Join(s.Names, "+"))
	}
	if got, want := strings.Join(names, " "), "read+write old intel time clone ptrace now clone3"; got != want {
		t.Errorf("rules %s\nwant  %s", got, want)
	}
	if want := []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}; !reflect.DeepEqual(p.Architectures, want) {
		t.Errorf("architectures %v, want %v", p.Architectures, want)
	}
	if p.DefaultAction != specs.ActErrno || *p.DefaultErrnoRet != 1 || *p.Syscalls[7].ErrnoRet != 38 || p.Syscalls[4].Args[0].Value != 2114060288 {
		t.Errorf("profile %+v", p)
	}
}

// The OCI form is taken as it is.
func TestOCIProfile(t *testing.T) {
	want := seccomp.Default("amd64", testHost.caps)
	raw, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseProfile(raw, testHost)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	path := filepath.Join(t.TempDir(), "profile.json")
	if err := os.WriteFile(path, []byte(`{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG"],"syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO","errnoRet":5}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, privileged := range []bool{false, true} {
		p := mustSpec(t, unpacked.ImageConfig{}, Options{Seccomp: path, Privileged: privileged}).Linux.Seccomp
		if p == nil || p.DefaultAction != specs.ActAllow || len(p.Syscalls) != 1 || *p.Syscalls[0].ErrnoRet != 5 || len(p.Flags) != 1 {
			t.Errorf("privileged %v: %+v", privileged, p)
		}
	}
	if p := mustSpec(t, unpacked.ImageConfig{}, Options{Seccomp: "unconfined"}).Linux.Seccomp; p != nil {
		t.Errorf("unconfined: %+v", p)
	}
	// The default depends on the capabilities.
	has := func(p *specs.LinuxSeccomp, name string) bool {
		for _, s := range p.Syscalls {
			for _, n := range s.Names {
				if n == name && s.Action == specs.ActAllow {
					return true
				}
			}
		}
		return false
	}
	if p := mustSpec(t, unpacked.ImageConfig{}, Options{}).Linux.Seccomp; !has(p, "openat") || has(p, "settimeofday") {
		t.Error("the default profile is not what the default capabilities need")
	}
	if p := mustSpec(t, unpacked.ImageConfig{}, Options{CapAdd: []string{"SYS_TIME"}}).Linux.Seccomp; !has(p, "settimeofday") {
		t.Error("CAP_SYS_TIME does not open its system calls")
	}
}

func TestBadProfile(t *testing.T) {
	for _, tt := range []struct{ profile, want string }{
		{"", "the end of the file"},
		{"null", "defaultAction is missing"},
		{"[]", "want an object, got an array"},
		{"{}", "defaultAction is missing"},
		{`{"defaultAction":"SCMP_ACT_ALLOW"} x`, "something follows"},
		{`{"defaultAction":"SCMP_ACT_ALLOW"}{}`, "something follows"},
		{`{"defaultAction":"SCMP_ACT_ALLOW",`, "got the end of the file"},
		{`{"defaultAction":5}`, "defaultAction: want a string, got a number"},
		{`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":-1}]}]}`, "syscalls[0].args[0].index"},
		{`{"defaultAction":"SCMP_ACT_ALLOW","syscals":[]}`, `unknown field "syscals"`},
		{`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","exclude":{}}]}`, `unknown field "exclude"`},
		{`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"name":"write","action":"SCMP_ACT_ALLOW"}]}`, "name and names exclude"},
		{`{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86"}]}`, "architectures and archMap exclude"},
		{`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"five"}}]}`, "minKernel"},
		{`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","excludes":{"minKernel":"4"}}]}`, "minKernel"},
	} {
		if p, err := parseProfile([]byte(tt.profile), testHost); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %+v, %v; want %q", tt.profile, p, err, tt.want)
		}
	}
	dir := t.TempDir()
	specError(t, unpacked.ImageConfig{}, Options{Seccomp: filepath.Join(dir, "missing.json")}, "missing.json")
	specError(t, unpacked.ImageConfig{}, Options{Seccomp: dir}, "seccomp profile")
	big := filepath.Join(dir, "big")
	f, err := os.Create(big)
	if err == nil {
		err = f.Truncate(1 << 40)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	specError(t, unpacked.ImageConfig{}, Options{Seccomp: big}, "more than 4194304 bytes")
}

func TestParseRelease(t *testing.T) {
	for release, want := range map[string][2]int{
		"6.18.5-1-amd64": {6, 18}, "5.14.0": {5, 14}, "6.1-rc3": {6, 1}, "10.0+": {10, 0}, "x": {0, 0}, "": {0, 0}, "7": {7, 0},
	} {
		if got := parseRelease(release); got != want {
			t.Errorf("%q: %v, want %v", release, got, want)
		}
	}
	if v := kernelVersion(); v[0] < 5 {
		t.Errorf("this kernel is %v", v)
	}
	if scmpArch(goruntime.GOARCH) == "" {
		t.Errorf("no architecture for %s", goruntime.GOARCH)
	}
}
