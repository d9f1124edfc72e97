// Package podlife has the rules for the life of one pod: when a container is
// started again, what the results of a probe mean, when which signal is sent at
// the end. Like package rollout it is pure: durations and times come in, no
// clock is read and nothing is done.
package podlife
