package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/minirun/minirun/internal/testenv"
)

// soon ends a wait that would not end.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Timeout(30*time.Second))
	t.Cleanup(cancel)
	return ctx
}

// over is a context in which nothing is waited for.
func over() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestWatch(t *testing.T) {
	s := open(t, file(t), Options{})
	obj := must[Object](t)
	blue, _ := labels.Parse("color=blue")
	all := must[*Watch](t)(s.Watch("configmaps", Selector{}, 0))
	some := must[*Watch](t)(s.Watch("configmaps", Selector{Labels: blue}, 0))
	any := must[*Watch](t)(s.Watch("", Selector{}, 0))
	paint := func(color string) {
		c := configMap("a")
		c.Labels["color"] = color
		if _, err := s.Update("configmaps", c, Main); err != nil {
			obj(s.Create("configmaps", c))
		}
	}
	paint("red")
	paint("blue")
	paint("blue") // no change
	obj(s.Create("secrets", secret("s", "x")))
	paint("red")
	paint("blue")
	obj(s.Delete("configmaps", "default", "a", DeleteOptions{}))
	seen := func(w *Watch) (out string) {
		for {
			e, err := w.Next(over())
			if errors.Is(err, context.Canceled) {
				return out
			}
			if err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(e.Revision) != e.Object.GetResourceVersion() {
				t.Errorf("%s at %d carries %s", e.Type, e.Revision, e.Object.GetResourceVersion())
			}
			out += fmt.Sprint(e.Type[:1], e.Revision, e.Object.GetLabels()["color"], " ")
		}
	}
	if got := seen(all); got != "A1red M2blue M4red M5blue D6blue " {
		t.Errorf("all: %s", got)
	}
	if got := seen(some); got != "A2blue D4blue A5blue D6blue " {
		t.Errorf("the blue ones: %s", got)
	}
	if got := seen(any); got != "A1red M2blue A3 M4red M5blue D6blue " {
		t.Errorf("all kinds: %s", got)
	}
	if all.Revision() != 6 || some.Revision() != 6 {
		t.Errorf("bookmarks %d, %d", all.Revision(), some.Revision())
	}
	// From a bookmark on.
	if got := seen(must[*Watch](t)(s.Watch("configmaps", Selector{}, 4))); got != "M5blue D6blue " {
		t.Errorf("after 4: %s", got)
	}
}

// Events come while somebody waits, to all, in order and without gaps.
func TestWatch_Concurrent(t *testing.T) {
	s := open(t, file(t), Options{})
	ctx := soon(t)
	const writers, each = 4, 25
	var wg sync.WaitGroup
	for range 3 {
		w := must[*Watch](t)(s.Watch("configmaps", Selector{}, 0))
		wg.Go(func() {
			for want := uint64(1); want <= writers*each; want++ {
				e, err := w.Next(ctx)
				if err != nil || e.Revision != want {
					t.Errorf("event %d, %v, want %d", e.Revision, err, want)
					return
				}
			}
		})
	}
	for n := range writers {
		wg.Go(func() {
			for i := range each {
				if _, err := s.Create("configmaps", configMap(fmt.Sprint(n, "-", i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestWatch_Gone(t *testing.T) {
	path := file(t)
	s := open(t, path, Options{History: 4})
	slow := must[*Watch](t)(s.Watch("configmaps", Selector{}, 0))
	for i := range 10 {
		must[Object](t)(s.Create("configmaps", configMap(fmt.Sprint(i))))
	}
	var gone *GoneError
	if _, err := slow.Next(over()); !errors.As(err, &gone) || gone.Oldest != 6 {
		t.Errorf("a slow watch: %v", err)
	}
	if _, err := s.Watch("configmaps", Selector{}, 5); !errors.As(err, &gone) {
		t.Errorf("from long ago: %v", err)
	}
	if _, err := s.Watch("configmaps", Selector{}, 11); !errors.As(err, &gone) {
		t.Errorf("from the future: %v", err)
	}
	w := must[*Watch](t)(s.Watch("configmaps", Selector{}, 6))
	for want := uint64(7); want <= 10; want++ {
		if e, err := w.Next(over()); err != nil || e.Revision != want {
			t.Errorf("event %d, %v, want %d", e.Revision, err, want)
		}
	}
	done := make(chan error)
	go func() {
		_, err := w.Next(soon(t))
		done <- err
	}()
	s.Close()
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("a watch of a closed store: %v", err)
	}
	// What happened before a start is not known after it.
	s = open(t, path, Options{})
	if _, err := s.Watch("configmaps", Selector{}, 9); !errors.As(err, &gone) {
		t.Errorf("from before the start: %v", err)
	}
	if _, err := s.Watch("configmaps", Selector{}, 10); err != nil {
		t.Error(err)
	}
}
