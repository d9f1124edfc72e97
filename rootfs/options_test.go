package rootfs

import (
	"fmt"
	"path"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseOptions(t *testing.T) {
	tests := []struct {
		options string
		want    string
	}{
		{"", "set 0 clear 0"},
		{"ro", "set 1 clear 0"},
		{"ro,rw", "set 0 clear 1"},
		{"rw,ro", "set 1 clear 0"},
		{"nosuid,nodev,noexec", "set e clear 0"},
		{"suid,dev,exec", "set 0 clear e"},
		{"noatime", "set 10 clear 70"},
		{"noatime,relatime", "set 0 clear 70"},
		{"strictatime", "set 20 clear 70"},
		{"rro,rnosuid", "set 0 clear 0 all 3/0"},
		{"rro,rrw", "set 0 clear 0 all 0/1"},
		{"rbind,rslave", "set 0 clear 0 bind rec prop 80000 all"},
		{"bind,private", "set 0 clear 0 bind prop 40000"},
		{"size=5,sync,defaults,x", "set 0 clear 0 data [size=5 x] super [sync]"},
		{"remount,ro", "set 1 clear 0 remount"},
	}
	for _, tt := range tests {
		o := parseOptions(strings.Split(tt.options, ","))
		got := fmt.Sprintf("set %x clear %x", o.set, o.clear)
		if o.bind {
			got += " bind"
		}
		if o.recursive {
			got += " rec"
		}
		if o.remount {
			got += " remount"
		}
		if o.propagation != 0 {
			got += fmt.Sprintf(" prop %x", o.propagation)
			if o.propagateAll {
				got += " all"
			}
		}
		if o.setAll|o.clrAll != 0 {
			got += fmt.Sprintf(" all %x/%x", o.setAll, o.clrAll)
		}
		if len(o.data) > 0 {
			got += fmt.Sprintf(" data %v", o.data)
		}
		if len(o.superFlags) > 0 {
			got += fmt.Sprintf(" super %v", o.superFlags)
		}
		if got != tt.want {
			t.Errorf("%q: got %s, want %s", tt.options, got, tt.want)
		}
	}
}

// Nothing that is set is cleared too, except the field of the access times,
// which the kernel wants cleared to be set.
func FuzzMountOptions(f *testing.F) {
	f.Add("ro,rw,noatime,rro,size=1")
	f.Add("rbind,rshared,nosymfollow,diratime")
	f.Fuzz(func(t *testing.T, s string) {
		o := parseOptions(strings.Split(s, ","))
		const atime = unix.MOUNT_ATTR__ATIME
		if o.set&o.clear&^atime != 0 || o.setAll&o.clrAll&^atime != 0 {
			t.Errorf("%q: set %x clear %x, all %x %x", s, o.set, o.clear, o.setAll, o.clrAll)
		}
	})
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"/", "/a/b", "a//b/../c", "../..", "/proc/./self/", "...", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		want := strings.TrimPrefix(path.Clean("/"+s), "/")
		if want == "" {
			want = "."
		}
		if got != want {
			t.Errorf("clean(%q) = %q, want %q", s, got, want)
		}
	})
}
