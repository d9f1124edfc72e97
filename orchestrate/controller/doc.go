// Package controller carries out what packages rollout and services decide: it
// watches the store, syncs what may be affected, and writes the result. It is one goroutine,
// and keeps nothing that a restart would miss: it then syncs everything once.
//
// The store shows a write to the next read, so nothing that was just created can
// be overlooked, and rollout.Expectations are not needed here.
//
// It does not start containers. Whoever runs pods watches the store too: it
// gives them a node, reports their status, and deletes those that have ended.
package controller
