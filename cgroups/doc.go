// Package cgroups gives one container one control group of the cgroup v2
// hierarchy and nothing else: translate the limits, make the group, write the
// limits, freeze, kill, remove. It is the cgroupfs driver, on the path of every
// create and start, so it works with plain system calls and allocates little.
//
// The parts, in the order a container meets them:
//
//   - [CleanPath] turns linux.cgroupsPath into a path in the hierarchy, [Mount]
//     finds the hierarchy;
//   - [FromOCI] translates linux.resources into [Limits], pure data that prints
//     as text. It is the only place that knows both the OCI names and the v2
//     files;
//   - [CreateFor] makes the group and enables the controllers top-down;
//     [Group.FD] is what clone3(2) takes with CLONE_INTO_CGROUP, so that the
//     container's first process is born inside;
//   - [Group.Apply] writes the limits and attaches the device filter, an eBPF
//     program that [DeviceFilter] assembles;
//   - [Group.Freeze], [Group.Thaw], [Group.Kill], [Group.Remove] end it.
//
// Invariants. A limit that was asked for is in force or the call fails, with an
// error that names the JSON field and the way out: a container never runs
// unlimited because a controller was missing. A request that equals the
// kernel's default needs no controller. Whoever called Create removes the
// group; parents are shared and stay. Waiting is poll(2) on cgroup.events.
//
// Facts about the kernel are from Documentation/admin-guide/cgroup-v2.rst and
// cgroups(7) unless a comment names another source. Linux 5.14 is the floor.
package cgroups
