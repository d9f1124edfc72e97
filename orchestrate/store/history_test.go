package store

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// operation is one call of one client, and how it ended.
type operation struct {
	what       string // create, update, delete, get
	key        string
	based      uint64 // the revision that an update or a delete is based on
	begin, end int64  // on one clock for all clients
	result     string // ok, exists, conflict, none
	revision   uint64 // of the write, or of the object that was read
}

func (o operation) writes() bool { return o.result == "ok" && o.what != "get" }

// Eight clients create, change, delete and read the same few objects. Whatever
// they saw must be explained by one order of all calls that contradicts neither
// the time nor a store that does one thing after the other.
func TestLinearizable(t *testing.T) {
	for round := range 3 {
		s := open(t, file(t), Options{})
		var clock atomic.Int64
		var wg sync.WaitGroup
		histories := make([][]operation, 8)
		for c := range histories {
			r := rand.New(rand.NewPCG(uint64(round), uint64(c)))
			wg.Go(func() {
				known := map[string]string{}
				for range 40 {
					o := operation{what: []string{"create", "update", "update", "delete", "get"}[r.IntN(5)], key: fmt.Sprint("k", r.IntN(3))}
					histories[c] = append(histories[c], call(s, o, known, &clock, r))
				}
			})
		}
		wg.Wait()
		if err := explain(slices.Concat(histories...)); err != nil {
			t.Fatal(err)
		}
	}
}

func call(s *Store, o operation, known map[string]string, clock *atomic.Int64, r *rand.Rand) operation {
	version := known[o.key]
	if o.what == "update" || o.what == "delete" {
		if version == "" {
			version = "1"
		}
		o.based, _ = strconv.ParseUint(version, 10, 64)
	}
	o.begin = clock.Add(1)
	var obj Object
	var err error
	switch o.what {
	case "create":
		obj, err = s.Create("configmaps", configMap(o.key, fmt.Sprint(r.Uint64())))
	case "update":
		c := configMap(o.key, fmt.Sprint(r.Uint64()))
		c.ResourceVersion = version
		obj, err = s.Update("configmaps", c, Main)
	case "delete":
		_, err = s.Delete("configmaps", "default", o.key, DeleteOptions{Revision: version})
	default:
		obj, err = s.Get("configmaps", "default", o.key)
	}
	o.end = clock.Add(1)
	var conflict *ConflictError
	switch {
	case err == nil:
		o.result = "ok"
	case errors.Is(err, fs.ErrExist):
		o.result = "exists"
	case errors.Is(err, fs.ErrNotExist):
		o.result = "none"
	case errors.As(err, &conflict):
		o.result = "conflict"
	default:
		o.result = err.Error()
	}
	if obj != nil {
		known[o.key] = obj.GetResourceVersion()
		o.revision, _ = strconv.ParseUint(known[o.key], 10, 64)
	}
	return o
}

// explain finds that order, or says what cannot be. Writes have their place by
// their revision; one that deletes is known by the gap it leaves. The others get
// the earliest place that time allows.
func explain(all []operation) error {
	writes := map[uint64]operation{}
	var deleted []operation
	last := uint64(0)
	for _, o := range all {
		switch {
		case !o.writes():
		case o.what == "delete":
			deleted = append(deleted, o)
		default:
			if was, ok := writes[o.revision]; ok {
				return fmt.Errorf("two writes of one revision: %+v, %+v", was, o)
			}
			writes[o.revision] = o
			last = max(last, o.revision)
		}
	}
	// A delete is of the revision that is free and lies before what comes next of
	// its object. With versions it is exact: the one it was based on is the last.
	slices.SortFunc(deleted, func(a, b operation) int { return cmp.Compare(a.begin, b.begin) })
	total := uint64(len(writes) + len(deleted))
	if last > total {
		return fmt.Errorf("%d writes, and a revision of %d", total, last)
	}
	if err := place(writes, deleted, total); err != nil {
		return err
	}
	// Each write must have been legal where it is.
	state := make([]map[string]uint64, total+1) // by revision: key -> version
	state[0] = map[string]uint64{}
	for r := uint64(1); r <= total; r++ {
		o, ok := writes[r]
		if !ok {
			return fmt.Errorf("nobody wrote revision %d", r)
		}
		now := map[string]uint64{}
		for k, v := range state[r-1] {
			now[k] = v
		}
		had, there := now[o.key]
		switch {
		case o.what == "create" && there, o.what != "create" && (!there || had != o.based):
			return fmt.Errorf("revision %d: %+v, and the object has %d", r, o, had)
		case o.what == "delete":
			delete(now, o.key)
		default:
			now[o.key] = r
		}
		state[r] = now
	}
	return others(all, writes, state, total)
}

// place gives deletes the revisions that are free: each one within its time.
func place(writes map[uint64]operation, deleted []operation, total uint64) error {
	for r := uint64(1); r <= total; r++ {
		if _, ok := writes[r]; ok {
			continue
		}
		// Of those that are possible, the one that was based on the latest version
		// before it, and whose object is not changed in between.
		at := slices.IndexFunc(deleted, func(o operation) bool {
			if o.based >= r {
				return false
			}
			for k := o.based + 1; k < r; k++ {
				if w := writes[k]; w.key == o.key {
					return false
				}
			}
			return writes[o.based].key == o.key
		})
		if at < 0 {
			return fmt.Errorf("nobody wrote revision %d", r)
		}
		// Several may fit: the one that ended first.
		for i, o := range deleted {
			fits := o.based < r && writes[o.based].key == o.key && o.end < deleted[at].end
			for k := o.based + 1; fits && k < r; k++ {
				fits = writes[k].key != o.key
			}
			if fits {
				at = i
			}
		}
		writes[r] = deleted[at]
		deleted = slices.Delete(deleted, at, at+1)
	}
	return nil
}

// others finds a place for what changed nothing, and checks the time of all.
func others(all []operation, writes map[uint64]operation, state []map[string]uint64, total uint64) error {
	type placed struct {
		operation
		at uint64
	}
	var done []placed
	for r, o := range writes {
		done = append(done, placed{o, r})
	}
	for _, a := range done {
		for _, b := range done {
			if a.end < b.begin && a.at > b.at {
				return fmt.Errorf("%+v ended before %+v began, and comes after it", a, b)
			}
		}
	}
	var rest []operation
	for _, o := range all {
		if !o.writes() {
			rest = append(rest, o)
		}
	}
	slices.SortFunc(rest, func(a, b operation) int { return cmp.Compare(a.end, b.end) })
	for _, o := range rest {
		low, high := uint64(0), uint64(math.MaxUint64)
		for _, d := range done {
			if d.end < o.begin {
				low = max(low, d.at)
			}
			if d.begin > o.end && d.writes() {
				high = min(high, d.at-1)
			}
		}
		at := low
		for ; at <= min(high, total); at++ {
			if seen(o, state[at]) {
				break
			}
		}
		if at > min(high, total) {
			return fmt.Errorf("nothing between revisions %d and %d explains %+v", low, min(high, total), o)
		}
		done = append(done, placed{o, at})
	}
	return nil
}

// seen tells whether a call that changes nothing ends like that in a state.
func seen(o operation, state map[string]uint64) bool {
	have, there := state[o.key]
	switch o.result {
	case "ok":
		return there && have == o.revision
	case "none":
		return !there
	case "exists":
		return o.what == "create" && there
	case "conflict":
		return there && have != o.based
	}
	return false
}

// The check itself notices what must not be.
func TestLinearizable_Check(t *testing.T) {
	fine := []operation{
		{what: "create", key: "a", begin: 1, end: 2, result: "ok", revision: 1},
		{what: "update", key: "a", based: 1, begin: 3, end: 4, result: "ok", revision: 2},
		{what: "get", key: "a", begin: 5, end: 6, result: "ok", revision: 2},
		{what: "delete", key: "a", based: 2, begin: 7, end: 8, result: "ok"},
		{what: "get", key: "a", begin: 9, end: 10, result: "none"},
	}
	if err := explain(fine); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(o []operation){
		"a read of what was replaced": func(o []operation) { o[2].revision = 1 },
		"a read of what was deleted": func(o []operation) {
			o[4] = operation{what: "get", key: "a", begin: 9, end: 10, result: "ok", revision: 2}
		},
		"nothing read of what is there":    func(o []operation) { o[2].result = "none" },
		"an update of an old version":      func(o []operation) { o[1].based = 0 },
		"two writes of one revision":       func(o []operation) { o[1].revision = 1 },
		"a revision before what was first": func(o []operation) { o[0].begin, o[0].end = 20, 21 },
		"a conflict without a reason": func(o []operation) {
			o[2] = operation{what: "update", key: "a", based: 2, begin: 5, end: 6, result: "conflict"}
		},
		"a disk that fails": func(o []operation) { o[2].result = "no space left on device" },
	} {
		bad := slices.Clone(fine)
		if change(bad); explain(bad) == nil {
			t.Errorf("%s is fine", name)
		}
	}
}

// Admit may refuse and change what is written, and sees what is there.
func TestAdmit(t *testing.T) {
	refused := errors.New("too many")
	k := Kind{Name: "configmaps", New: func() Object { return &corev1.ConfigMap{} }, Admit: func(s *Store, old, n Object) error {
		l, err := s.List("configmaps", Selector{}, 0, "")
		if err != nil {
			return err
		}
		if old == nil && len(l.Items) >= 2 {
			return refused
		}
		c := n.(*corev1.ConfigMap)
		if c.Data["k0"] == "bad" {
			return refused
		}
		c.Data["seen"] = strconv.Itoa(len(l.Items))
		if old != nil {
			c.Data["seen"] = old.(*corev1.ConfigMap).Data["seen"]
		}
		return nil
	}}
	s, err := Open(file(t), []Kind{k}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	a := must[Object](t)(s.Create("configmaps", configMap("a", "x"))).(*corev1.ConfigMap)
	b := must[Object](t)(s.Create("configmaps", configMap("b", "x"))).(*corev1.ConfigMap)
	if a.Data["seen"] != "0" || b.Data["seen"] != "1" {
		t.Errorf("%v, %v", a.Data, b.Data)
	}
	at := s.Revision()
	if _, err := s.Create("configmaps", configMap("c", "x")); !errors.Is(err, refused) {
		t.Error(err)
	}
	if _, err := s.Update("configmaps", configMap("a", "bad"), Main); !errors.Is(err, refused) {
		t.Error(err)
	}
	// What Admit makes the same as before is no write.
	n := configMap("a", "x")
	n.UID, n.CreationTimestamp = a.UID, a.CreationTimestamp
	if got := must[Object](t)(s.Update("configmaps", n, Main)); s.Revision() != at || got.GetGeneration() != 1 {
		t.Errorf("revision %d, was %d; generation %d", s.Revision(), at, got.GetGeneration())
	}
	if got := must[Object](t)(s.Get("configmaps", "default", "a")).(*corev1.ConfigMap); strings.Contains(fmt.Sprint(got.Data), "bad") {
		t.Errorf("%v", got.Data)
	}
}
