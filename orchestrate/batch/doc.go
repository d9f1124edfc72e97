// Package batch decides what the controllers of Jobs and CronJobs do. Like
// package rollout it is pure: objects and the time come in, and what is to be
// done comes out.
//
// A Job counts every end of a pod exactly once, wherever whoever carries plans
// out is killed. A pod carries a finalizer, so it cannot vanish uncounted. When it
// has ended, its uid is first written into the Job's status as uncounted; then the
// finalizer goes; and only when it is gone, the same write that raises the count
// takes the uid out. Indexes that are complete are a set, where twice is once.
package batch
