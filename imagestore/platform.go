package imagestore

import (
	"bytes"
	"runtime"
	"strings"

	"github.com/minirun/minirun/internal/linux"
)

// HostPlatform is what this host runs natively. The variant is left empty: the
// levels of an amd64 processor are only looked at when an image offers several.
func HostPlatform() Platform {
	return Platform{OS: "linux", Architecture: runtime.GOARCH}
}

// String is the form that docker and containerd show: linux/arm64/v8.
func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// normalized spells architecture and variant one way: x86_64 is amd64, aarch64
// is arm64, armhf is arm/v7, the variants that mean nothing special go.
func (p Platform) normalized() Platform {
	p.OS = strings.ToLower(p.OS)
	p.Architecture = strings.ToLower(p.Architecture)
	p.Variant = strings.ToLower(p.Variant)
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	case "i386":
		p.Architecture = "386"
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	}
	if len(p.Variant) == 1 && p.Variant[0] >= '0' && p.Variant[0] <= '9' {
		p.Variant = "v" + p.Variant
	}
	switch {
	case p.Architecture == "amd64" && p.Variant == "v1", p.Architecture == "arm64" && p.Variant == "v8":
		p.Variant = ""
	}
	return p
}

// rank says how well an image for p runs on host: 0 not at all, more is better.
// level returns the processor's amd64 micro-architecture level, 1 to 4, and is
// only called when it matters. 32-bit code on a 64-bit host is not native.
func rank(host, p Platform, level func() int) int {
	host, p = host.normalized(), p.normalized()
	if p.OS != host.OS || p.Architecture != host.Architecture {
		return 0
	}
	if p.Variant == "" || p.Variant == host.Variant {
		return 1
	}
	if p.Architecture == "amd64" && len(p.Variant) == 2 && p.Variant[0] == 'v' {
		if v := int(p.Variant[1] - '0'); v >= 2 && v <= 4 && v <= level() {
			return v
		}
	}
	return 0
}

// cpuLevel reads the x86-64 level (System V psABI) from the flags that the
// kernel lists. That costs nothing when the program starts, which the CPUID
// instruction in a virtual machine would.
func cpuLevel() int {
	b, err := linux.ReadFile("/proc/cpuinfo", 16<<20)
	if err != nil {
		return 1
	}
	_, rest, ok := bytes.Cut(b, []byte("\nflags"))
	if !ok {
		return 1
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	return levelFromFlags(string(line))
}

func levelFromFlags(line string) int {
	_, line, _ = strings.Cut(line, ":")
	flags := " " + strings.TrimSpace(line) + " "
	has := func(names string) bool {
		for n := range strings.FieldsSeq(names) {
			if !strings.Contains(flags, " "+n+" ") {
				return false
			}
		}
		return true
	}
	switch {
	case !has("cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"):
		return 1
	case !has("avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"):
		return 2
	case !has("avx512f avx512bw avx512cd avx512dq avx512vl"):
		return 3
	}
	return 4
}
