package main

import (
	"errors"
	"runtime"
	"strings"
)

// checkPlatform takes docker's --platform where it changes nothing: for this host.
// An image for another platform would run only by emulation.
func checkPlatform(v string) error {
	system, arch, ok := strings.Cut(strings.ToLower(v), "/")
	arch, variant, _ := strings.Cut(arch, "/")
	if !ok || system == "" || arch == "" || strings.Contains(variant, "/") {
		return errors.New("want OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT")
	}
	switch arch {
	case "x86_64", "x86-64":
		arch = "amd64"
	case "aarch64":
		arch = "arm64"
	}
	if arch == "arm64" && variant == "v8" || arch == "amd64" && variant == "v1" {
		variant = "" // the same
	}
	if system != "linux" || arch != runtime.GOARCH {
		return errors.New("this host runs linux/" + runtime.GOARCH + "; minirun pull --platform fetches images for others, and does not run them")
	}
	if variant != "" {
		return errors.New("the variant is chosen by what the processor has: leave it out")
	}
	return nil
}
