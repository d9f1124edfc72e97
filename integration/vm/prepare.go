package vm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/minirun/minirun/integration/vm/guest"
)

// prepare makes the initramfs and the disk, starts the file servers and returns
// QEMU's arguments without the ports.
func (m *machine) prepare(ctx context.Context) ([]string, error) {
	shares, err := m.shares()
	if err != nil {
		return nil, err
	}
	scratch := filepath.Join(m.work, "scratch")
	if err := m.makeScratch(ctx, scratch); err != nil {
		return nil, err
	}
	initrd := filepath.Join(m.work, "initrd")
	if err := m.writeInitrd(initrd, shares); err != nil {
		return nil, fmt.Errorf("initramfs: %w", err)
	}
	quiet := "quiet "
	if m.o.Keep {
		quiet = ""
	}
	args := []string{
		"-accel", "tcg,thread=multi", "-cpu", cpu, "-smp", strconv.Itoa(m.o.CPUs), "-m", strconv.Itoa(m.o.Memory),
		// vhost-user needs the guest's memory shareable.
		"-machine", "q35,memory-backend=mem",
		"-object", fmt.Sprintf("memory-backend-memfd,id=mem,size=%dM,share=on", m.o.Memory),
		"-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-nic", "none",
		"-kernel", m.kernel.image, "-initrd", initrd, "-append", quiet + kernelArgs + " " + m.o.Append,
		"-device", "virtio-rng-pci",
		"-drive", "file=" + scratch + ",format=raw,if=none,id=scratch,cache=unsafe,discard=unmap",
		"-device", "virtio-blk-pci,drive=scratch",
		"-chardev", "file,id=console,path=" + filepath.Join(m.work, "console"), "-serial", "chardev:console",
		"-device", "virtio-serial-pci,max_ports=8",
	}
	for i, d := range m.o.Disks {
		// writeback: the guest's flushes come through, and nothing else is flushed.
		args = append(args, "-drive", fmt.Sprintf("file=%s,format=raw,if=none,id=disk%d,cache=writeback", d.drive(), i),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=disk%d", i))
	}
	for _, s := range append([]guest.Share{{Tag: "root", Path: "/"}}, shares...) {
		cmd, socket, err := serve(m.work, s.Tag, s.Path, s.ReadWrite, m.self)
		if err != nil {
			return nil, err
		}
		m.children = append(m.children, cmd)
		args = append(args, "-chardev", "socket,id="+s.Tag+",path="+socket,
			"-device", "vhost-user-fs-pci,queue-size=1024,chardev="+s.Tag+",tag="+s.Tag)
	}
	return args, nil
}

// shares returns what the guest has to mount beside the root.
func (m *machine) shares() ([]guest.Share, error) {
	var out []guest.Share
	add := func(dir string, readWrite bool) error {
		dir, err := filepath.Abs(dir)
		if err != nil {
			return err
		}
		if info, err := os.Stat(dir); err != nil {
			return err
		} else if !info.IsDir() {
			return fmt.Errorf("%q is not a directory", dir)
		}
		real, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return err
		}
		if other, err := needsShare(real); err != nil {
			return err
		} else if other || readWrite {
			out = append(out, guest.Share{Tag: fmt.Sprintf("share%d", len(out)), Path: real, ReadWrite: readWrite})
		}
		return nil
	}
	for _, dir := range append([]string{m.o.Dir}, m.o.ReadOnly...) {
		if err := add(dir, false); err != nil {
			return nil, err
		}
	}
	for _, dir := range m.o.ReadWrite {
		if err := add(dir, true); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (m *machine) makeScratch(ctx context.Context, path string) error {
	mkfs, err := findProgram("mkfs.ext4", "e2fsprogs")
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(scratchSize); err != nil {
		return err
	}
	return run(ctx, m.work, mkfs, "-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", path)
}
