// Package runtime builds OCI containers and keeps track of them: create, start,
// kill, delete, exec, state, list.
//
// It turns config.json into a plan, an ordered list of named steps to which
// packages namespaces and rootfs contribute; has package initprog compile the
// plan into a program; starts that as the container's init; and records what
// exists in the state directory.
//
//	store.go    the state root: containers by ID, locks
//	state.go    what is recorded of a container, and its status
//	plan.go     config.json to plan
//	process.go  the part of the plan that becomes the user's process
//	create.go   the transaction: state, cgroup, launch, limits, handshake
//	start.go, kill.go, delete.go, exec.go
//
// # Invariants
//
//   - Create is a transaction. What it will make is recorded before it is made,
//     so that after a crash at any point [Container.Delete] with [Force] finds
//     and removes all of it.
//   - No user code runs before every limit and device rule is in place: the
//     init waits for the runtime, and ends if that goes away.
//   - A pid is only used together with its start time and the boot id, and
//     signals go through a pidfd.
//   - Everything of a container lies in one cgroup; killing that kills it all.
package runtime
