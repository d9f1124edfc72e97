// Package vm runs one command as root in a throw-away virtual machine that sees
// this machine's files, for tests that need what the host may not have: every
// cgroup v2 controller, another kernel, freedom to break things.
//
// [Run] boots Debian's cloud kernel in QEMU by emulation (no KVM, so it works in
// nested and rented machines) and takes it down again. The guest has
//
//   - the host's root file system, read-only through virtiofs, with a tmpfs
//     overlay on top: writes work and vanish;
//   - pure cgroup v2 at /sys/fs/cgroup, every controller enabled for children,
//     the command in a leaf of its own;
//   - an empty ext4 file system at /scratch with TMPDIR on it, since an overlay
//     can be neither an overlay's upper directory nor idmapped;
//   - the modules that containers use loaded, and no network but lo.
//
// There is no shell and no agent inside: the guest's init is the program that
// called Run, started again (see [Reexec]), so that both ends are one source.
//
// Everything that Run starts (QEMU and one virtiofsd per shared directory) is
// killed when it returns and, by PR_SET_PDEATHSIG, when its process dies. What
// it writes is below one temporary directory; only the unpacked kernel package
// stays, in the user's cache directory.
//
// Emulation makes CPU work 10 to 20 times slower. Build on the host and batch
// many tests into one boot.
package vm
