package podlife

import "time"

// minimumGrace is what is left for the signal when the hook took all the time.
const minimumGrace = 2 * time.Second

// End is when a container that is to end gets its signals, from the beginning on.
// A container that ends before is done.
type End struct {
	// Term is when the stop signal is sent, which is when the hook is over, or
	// given up; nothing is sent if Kill is at 0.
	Term time.Duration
	Kill time.Duration
}

// Ending is the end of a container with that grace, whose preStop hook takes
// that long; no hook takes 0.
func Ending(grace, hook time.Duration) End {
	if grace <= 0 {
		return End{}
	}
	term := min(hook, grace)
	return End{Term: term, Kill: max(grace, term+minimumGrace)}
}
