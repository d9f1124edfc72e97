package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"
)

// kernelPackage is the Debian package whose dependency is the kernel to boot.
const kernelPackage = "linux-image-cloud-amd64"

// kernel is an unpacked kernel package.
type kernel struct {
	image   string // vmlinuz
	modules string // directory with modules.dep
	release string
}

// findKernel returns the kernel of a Debian package, by default the one that
// linux-image-cloud-amd64 stands for. A package is downloaded once and unpacked
// into the cache directory; it is not installed.
func findKernel(ctx context.Context, cache, pkg string) (kernel, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return kernel{}, err
	}
	lock, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return kernel{}, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return kernel{}, fmt.Errorf("lock %q: %w", lock.Name(), err)
	}
	if pkg == "" {
		if root := newestKernel(cache); root != "" {
			return openKernel(root)
		}
		if pkg, err = kernelDependency(ctx); err != nil {
			return kernel{}, err
		}
	}
	root := filepath.Join(cache, pkg)
	if _, err := os.Stat(root); err != nil {
		if err := fetchKernel(ctx, cache, pkg, root); err != nil {
			return kernel{}, fmt.Errorf("kernel package %s: %w", pkg, err)
		}
	}
	return openKernel(root)
}

// newestKernel returns the kernel unpacked last, or "".
func newestKernel(cache string) string {
	dirs, _ := filepath.Glob(filepath.Join(cache, "linux-image-*"))
	newest, when := "", int64(0)
	for _, d := range dirs {
		if info, err := os.Stat(d); err == nil && info.ModTime().UnixNano() > when {
			newest, when = d, info.ModTime().UnixNano()
		}
	}
	return newest
}

var dependsLine = regexp.MustCompile(`(?m)^\s*Depends: (linux-image-\S+)`)

// kernelDependency asks apt which package kernelPackage stands for now.
func kernelDependency(ctx context.Context) (string, error) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return "", fmt.Errorf("the guest's kernel comes from Debian's %s: %w", kernelPackage, err)
	}
	// A machine that never ran apt-get update knows no packages, an old list names kernels that are gone.
	if err := run(ctx, "", "apt-get", "update", "-q"); err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, "apt-cache", "depends", kernelPackage).Output()
	if err != nil {
		return "", fmt.Errorf("apt-cache depends %s: %w", kernelPackage, err)
	}
	m := dependsLine.FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("apt knows no package %s", kernelPackage)
	}
	return string(m[1]), nil
}

func fetchKernel(ctx context.Context, cache, pkg, root string) error {
	tmp, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := run(ctx, tmp, "apt-get", "download", "-q", pkg); err != nil {
		return err
	}
	debs, _ := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if len(debs) != 1 {
		return fmt.Errorf("apt-get download left %d packages, want 1", len(debs))
	}
	unpacked := filepath.Join(tmp, "root")
	if err := run(ctx, tmp, "dpkg-deb", "-x", debs[0], unpacked); err != nil {
		return err
	}
	// depmod(8) looks in /lib, where Debian 13's packages have nothing any more.
	if _, err := os.Lstat(filepath.Join(unpacked, "lib")); err != nil {
		if err := os.Symlink("usr/lib", filepath.Join(unpacked, "lib")); err != nil {
			return err
		}
	}
	k, err := openKernel(unpacked)
	if err != nil {
		return err
	}
	depmod, err := findProgram("depmod", "kmod")
	if err != nil {
		return err
	}
	if err := run(ctx, tmp, depmod, "-b", unpacked, k.release); err != nil {
		return err
	}
	// The rename makes it complete or absent.
	return os.Rename(unpacked, root)
}

func openKernel(root string) (kernel, error) {
	releases, _ := filepath.Glob(filepath.Join(root, "lib/modules/*"))
	if len(releases) != 1 {
		return kernel{}, fmt.Errorf("%q has %d module directories, want 1", root, len(releases))
	}
	k := kernel{modules: releases[0], release: filepath.Base(releases[0])}
	k.image = filepath.Join(root, "boot", "vmlinuz-"+k.release)
	if _, err := os.Stat(k.image); err != nil {
		return kernel{}, err
	}
	return k, nil
}

// findProgram looks where root's programs are, too, since PATH may lack it.
func findProgram(name, pkg string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/lib/qemu", "/usr/libexec"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("no %s on this machine: apt-get install %s", name, pkg)
}

// run runs a helper program; its output is in the error only.
func run(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, bytes.TrimSpace(out))
	}
	return nil
}
