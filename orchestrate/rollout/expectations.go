package rollout

import (
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// expectationsEnd is when what was never seen is given up: the event was
// missed, and the next sync counts what there is.
const expectationsEnd = 5 * time.Minute

// Expectations are what a controller has done to the pods of one set and not
// seen yet. It must not act in between: a pod that was created and is not in
// the list yet would be created a second time. Deletions go by uid, since the
// same one may be seen twice. The zero value expects nothing.
type Expectations struct {
	creations int
	deletions map[types.UID]bool
	since     time.Time
}

// Expect says what will be done from now on.
func (e *Expectations) Expect(creations int, deletions []types.UID, now time.Time) {
	e.creations, e.since = creations, now
	e.deletions = make(map[types.UID]bool, len(deletions))
	for _, uid := range deletions {
		e.deletions[uid] = true
	}
}

// Created says that a creation was seen, or came to nothing.
func (e *Expectations) Created() { e.creations = max(e.creations-1, 0) }

// Deleted says that a deletion was seen, or came to nothing.
func (e *Expectations) Deleted(uid types.UID) { delete(e.deletions, uid) }

// Waiting tells whether something is still to be seen.
func (e *Expectations) Waiting(now time.Time) bool {
	return (e.creations > 0 || len(e.deletions) > 0) && now.Before(e.since.Add(expectationsEnd))
}
