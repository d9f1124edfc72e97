package clock

import (
	"strconv"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// set is a clock that can be set: its times have a reading of the real one that only
// goes forward, as those of time.Now, and another wall clock cannot be given to them.
// So it has none, and says separately how much time has passed.
type set struct {
	passed time.Duration
	offset time.Duration
}

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// wall is what an object would be told the time is.
func (s *set) wall() time.Time { return noon.Add(s.passed + s.offset) }

// A Memory whose own clock does not jump sees what one with a forward-only reading does:
// times of objects jump against it.
func TestThen(t *testing.T) {
	for _, jump := range []time.Duration{time.Hour, 400 * 24 * time.Hour, -time.Hour, -56 * 365 * 24 * time.Hour} {
		s := &set{}
		steady := func() time.Time { return noon.Add(s.passed) }
		m := New(steady)
		before := s.wall()
		if got := m.Then("a", before); !got.Equal(before) {
			t.Fatalf("jump %s: %s became %s", jump, before, got)
		}
		s.passed += time.Minute
		if got := steady().Sub(m.Then("a", before)); got != time.Minute {
			t.Errorf("jump %s: %s have passed", jump, got)
		}
	}
}

// A time that is ahead of the clock counts as one of now, and grows old from there.
func TestThen_Future(t *testing.T) {
	s := &set{}
	m := New(s.wall)
	future := noon.Add(365 * 24 * time.Hour)
	if got := m.Then("a", future); !got.Equal(noon) {
		t.Errorf("got %s", got)
	}
	s.passed = time.Minute
	if got := m.Then("a", future); !got.Equal(noon) {
		t.Errorf("a minute later: got %s", got)
	}
	if got := m.Then("b", future); !got.Equal(noon.Add(time.Minute)) {
		t.Errorf("of another object: got %s", got)
	}
	if got := m.Then("a", time.Time{}); !got.IsZero() {
		t.Errorf("no time: got %s", got)
	}
}

// With the real clock: what Then gives is compared by the reading that only goes
// forward.
func TestThen_Monotonic(t *testing.T) {
	m := New(nil)
	hour := time.Now().Add(-time.Hour).Truncate(time.Second) // without a reading
	first := m.Then("a", hour)
	if d := time.Since(first); d < time.Hour || d > time.Hour+time.Minute {
		t.Errorf("%s have passed", d)
	}
	if first == first.Round(0) { //nolint:revive // Round strips the reading: they are equal if there is none
		t.Errorf("%s has no reading", first)
	}
	if second := m.Then("a", hour); second.Before(first.Add(-time.Second)) || second.After(first.Add(time.Second)) {
		t.Errorf("%s became %s", first, second)
	}
}

// It does not grow without end, and what is asked for stays.
func TestThen_Forgets(t *testing.T) {
	s := &set{}
	m := New(s.wall)
	future := noon.Add(time.Hour)
	m.Then("kept", future)
	m.Then("lost", future)
	s.passed = time.Minute
	for i := range 3 * generation {
		m.Then(types.UID(strconv.Itoa(i)), future)
		m.Then("kept", future)
	}
	if n := len(m.young) + len(m.old); n > 2*generation {
		t.Errorf("%d are remembered", n)
	}
	if got := m.Then("kept", future); !got.Equal(noon) {
		t.Errorf("what was asked for: %s", got)
	}
	if got := m.Then("lost", future); got.Equal(noon) {
		t.Error("what nobody asked for is still there")
	}
}
