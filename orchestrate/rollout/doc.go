// Package rollout decides what the controllers of workloads do. It is pure: it
// takes objects as they are, what was observed of them, and the time, and says
// what is to be created, resized, deleted and written into the status. It reads
// no clock, keeps nothing between calls and touches nothing.
//
// One call is one sync. A sync does little, and in one direction: the caller
// carries the plan out, and what that changes causes the next sync. Because
// every sync starts from the whole state, it does not matter how many changes
// are missed or seen twice, nor where the caller was killed (level-triggered).
//
// The arithmetic is that of the Deployment controller of Kubernetes 1.34.
// testdata/rollout-vectors.json has answers of the real one; the tests replay
// all of them. Where this package differs on purpose:
//
//   - Of the pods of a set, those in the same bucket of readiness go by restarts,
//     age and uid. Kubernetes goes by uid as soon as two ready times differ within
//     a bucket, which is no order: three pods can each come before the next.
//   - A set that has the wanted size but remembers another one gets its memory
//     corrected. In Kubernetes such a deployment stays in its scaling branch, and
//     a later template is never rolled out.
//   - The same holds for a deployment that changes its size and has several active
//     sets when it becomes Recreate.
//   - The hash in names comes from the JSON of the template, so names differ from
//     those that a cluster would give.
//   - AutoRollback, which Kubernetes does not have.
package rollout
