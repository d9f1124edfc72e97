package controller

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/store"
)

// say stores an event, as the node does.
func (c *cluster) say(name string, at time.Time) {
	c.t.Helper()
	e := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, LastTimestamp: metav1.NewTime(at)}
	if _, err := c.s.Create(events, e); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) said() (names []string) {
	all, err := c.s.List(events, store.Selector{}, 0, "")
	if err != nil {
		c.t.Fatal(err)
	}
	for _, o := range all.Items {
		names = append(names, o.GetName())
	}
	return names
}

// Events go after an hour, those of the node too when no controller says anything.
func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.say("first", time.Now())
		c.say("ahead", time.Now().Add(30*24*time.Hour))
		time.Sleep(50 * time.Minute)
		c.say("second", time.Now())
		time.Sleep(20 * time.Minute)
		c.say("third", time.Now())
		synctest.Wait()
		if got := c.said(); !slices.Equal(got, []string{"second", "third"}) {
			t.Errorf("there are %q", got)
		}
	})
}

// Of too many the newest stay.
func TestForget_TooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		now := time.Now()
		for i := range 9 {
			c.say(fmt.Sprint("e", i), now.Add(-time.Duration(9-i)*time.Second))
		}
		synctest.Wait()
		w, err := New(Options{Store: c.s, Now: c.clock})
		if err != nil {
			t.Fatal(err)
		}
		w.mostEvents = 4
		w.forgetBefore(now)
		if got := c.said(); !slices.Equal(got, []string{"e5", "e6", "e7", "e8"}) {
			t.Errorf("there are %q", got)
		}
	})
}
