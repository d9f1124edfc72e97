// Package seccomp compiles the linux.seccomp object of an OCI configuration to a classic BPF program for seccomp(2),
// without libseccomp: Compile is a pure function that a runtime calls before the container's first process exists.
//
// # What a profile means
//
// The rules are those of runc with libseccomp:
//
//   - The conditions of one entry are joined by AND, entries for the same call by OR: the first entry that holds
//     decides. When an entry has several conditions on the same argument, each of its conditions counts as an entry of
//     its own.
//   - An entry without conditions beats all entries with conditions for that call, wherever it stands. Of several
//     without conditions the first counts.
//   - An entry whose action is the default action, errno included, is no rule at all.
//   - A name that an architecture lacks is no error and matches nothing there.
//   - In SCMP_CMP_MASKED_EQ, value is the mask, and valueTwo is masked too.
//   - Absent flags mean SECCOMP_FILTER_FLAG_SPEC_ALLOW. TSYNC is accepted and has no effect, the loading thread being
//     the only one. SCMP_ACT_NOTIFY adds NEW_LISTENER; it is refused as default action and for write.
//   - errnoRet defaults to EPERM, and is an error with an action that takes none (runtime specification, "Seccomp").
//
// The native architecture is always part of the filter. A call through another ABI that is not listed, or whose numbers
// are not known here (SCMP_ARCH_S390, N32, PARISC, M68K, SH), kills the process; libseccomp kills the thread. x86_64
// and x32 have the same seccomp_data.arch and differ in bit 30 of the number; x32 calls are never matched by x86_64
// rules. Number -1, with which a tracer skips a call, is not an x32 call.
//
// # Calls newer than the profile
//
// If the default action keeps calls from running (everything but ALLOW, LOG and TRACE), a call with a higher number than
// any that the profile names gets ENOSYS. Its author cannot have meant to forbid it, and a C library that is newer
// than the profile takes ENOSYS as "use the old call", EPERM as a failure. runc does the same. Two ranges of numbers far
// from the common ones, x32's own and Arm's private calls, are looked at separately, so that they do not hide new calls.
//
// # 32-bit arguments
//
// On a 32-bit ABI an argument has 32 bits. A value in the profile that only fits 64 bits is compared as such: EQ is never
// true then, LT always. Negative values, sign-extended to 64 bits, are cut to 32. libseccomp cuts every value, so that
// "less than 4 GiB" would become "less than 0". x32 passes 64-bit registers and is compared like x86_64.
//
// # Multiplexed calls
//
// On x86, s390x, ppc and MIPS o32 a call like connect can also be made through socketcall(2), one like shmget through
// ipc(2). A rule for connect without conditions is repeated for that sub-call. Conditions cannot be checked there, the
// arguments being in memory: a rule that is stricter than the default action is then repeated without its conditions,
// and one that is not is left out (libseccomp repeats it, and so allows more than the profile says). An entry without
// conditions for socketcall or ipc itself wins over all of that.
//
// # The program
//
// One comparison selects the architecture, then a binary search over ranges of numbers with equal action finds the
// action: some ten instructions for a call. The search uses only instructions that the kernel can evaluate when the
// filter is loaded (Linux 5.11, "seccomp/cache"): calls that are always allowed then do not run it at all. Conditions
// on one argument become ranges as well. Docker's default profile has 333 instructions for three ABIs, 1048 when
// libseccomp 2.5.4 compiles it; loading time grows with the number.
//
// The syscall tables are constant data generated from golang.org/x/sys/unix.
package seccomp
