// Package testenv holds what the tests of all packages share: the built
// binaries, a root filesystem and bundles to run, names that cannot collide, and
// a check that a test leaves nothing behind in the kernel.
//
// # Which tests may use what
//
// A test's name says where it runs: TestRoot... needs root, TestVM... needs a
// guest with every cgroup v2 controller (see integration/vm), every other test
// needs neither. The test targets select by these names, so a test never skips
// itself for lack of root: [RequireRoot] fails.
//
// # Who cleans up
//
// Everything a helper makes is registered with t.Cleanup and removed at the end
// of the test t it was given. Containers, mounts, cgroups, links and processes
// that a test starts are the test's own to remove; [CheckLeaks] tells when it
// forgot.
//
// # Environment
//
//   - MINIRUN_BIN_DIR: directory with minirun and minirund; unset, they are built.
//   - MINIRUN_TEST_SLOW: factor by which [Timeout] stretches time limits.
//   - MINIRUN_TEST_EXCLUSIVE: "1" when nothing else runs on this kernel (the
//     guest of integration/vm): then every new mount, link, network namespace
//     and minirun cgroup counts as a leak, not only those with the test's names.
package testenv
