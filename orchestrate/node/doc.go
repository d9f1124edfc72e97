// Package node runs pods: it keeps the containers of this host as the Pods in the
// store want them, and writes into their status what it sees.
//
//	node.go      the parts, and who is told what
//	worker.go    one pod: looks, decides, acts, reports
//	decide.go    pure: from what is seen to what is to be done
//	status.go    pure: from what is seen to the pod's status
//	adopt.go     what there is of a pod after a restart
//	record.go    what is remembered of a pod beside its containers
//	sandbox.go   namespaces, addresses, files of a pod
//	volumes.go   volumes
//	spec.go      from a container of a pod to one of the runtime
//	start.go, stop.go, probe.go, hooks.go, pull.go
//	access.go    logs, exec, attach
//
// # Invariants
//
//   - Containers live without us: each has a monitor, which keeps its log and
//     records its end. We may be killed at any moment.
//   - A container's ID is made of the pod's uid, its name and the number of the
//     attempt, so that nothing is started twice: the second one is refused.
//   - What is made is recorded before it is made, and the record goes last.
//   - The kernel and the records decide what is true, and neither memory nor the
//     status in the store does.
package node
