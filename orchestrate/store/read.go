package store

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }

func (s *Store) table(kind string) (*table, error) {
	t := s.kinds[kind]
	if t == nil {
		return nil, fmt.Errorf("the store has no kind %q", kind)
	}
	return t, nil
}

func (s *Store) object(t *table, key name) Object {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if obj, ok := t.objects[key]; ok {
		return obj
	}
	return nil
}

// Revision is that of the last write.
func (s *Store) Revision() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.revision
}

// Get gives an object.
func (s *Store) Get(kind, namespace, objName string) (Object, error) {
	t, err := s.table(kind)
	if err != nil {
		return nil, err
	}
	obj := s.object(t, name{namespace, objName})
	if obj == nil {
		return nil, &NotFoundError{kind, namespace, objName}
	}
	return obj, nil
}

// Selector chooses objects. The zero value chooses all.
type Selector struct {
	// Namespace, if not empty, is the only one.
	Namespace string
	// Labels, if not nil, must match.
	Labels labels.Selector
	// Match, if not nil, must be true: fields are a matter of the kind.
	Match func(Object) bool
}

func (s Selector) matches(obj Object) bool {
	return obj != nil && (s.Namespace == "" || obj.GetNamespace() == s.Namespace) &&
		(s.Labels == nil || s.Labels.Matches(labels.Set(obj.GetLabels()))) && (s.Match == nil || s.Match(obj))
}

// List is objects as they were at one revision, sorted by namespace and name.
type List struct {
	Items    []Object
	Revision uint64
	// Continue, if not empty, gives the next page, of the same revision.
	Continue string
	// Remaining is how many there are after this page.
	Remaining int
}

// page is a list that was asked for in pieces.
type page struct {
	id       uint64
	kind     string
	rest     []Object
	revision uint64
	at       time.Time
}

// How many unfinished lists are kept, and how long.
const (
	maxPages = 64
	pageTime = 5 * time.Minute
)

// List gives the objects that sel chooses: all, or limit of them if that is
// above zero. cont is the Continue of the page before.
func (s *Store) List(kind string, sel Selector, limit int, cont string) (List, error) {
	t, err := s.table(kind)
	if err != nil {
		return List{}, err
	}
	if cont != "" {
		return s.nextPage(kind, limit, cont)
	}
	s.mu.RLock()
	l := List{Revision: s.revision}
	for _, obj := range t.objects {
		if sel.matches(obj) {
			l.Items = append(l.Items, obj)
		}
	}
	s.mu.RUnlock()
	slices.SortFunc(l.Items, func(a, b Object) int {
		return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
	})
	if limit > 0 && limit < len(l.Items) {
		s.keepPage(kind, &l, limit)
	}
	return l, nil
}

// keepPage cuts a list and keeps the rest. Objects are never changed, so to keep
// them costs nothing but their memory.
func (s *Store) keepPage(kind string, l *List, limit int) {
	p := page{kind: kind, rest: l.Items[limit:], revision: l.Revision, at: s.now()}
	l.Items, l.Remaining = l.Items[:limit:limit], len(p.rest)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pages = slices.DeleteFunc(s.pages, func(q page) bool { return p.at.Sub(q.at) > pageTime })
	if len(s.pages) >= maxPages {
		s.pages = slices.Delete(s.pages, 0, 1)
	}
	for p.id == 0 || slices.ContainsFunc(s.pages, func(q page) bool { return q.id == p.id }) {
		for _, b := range randomBytes(8) {
			p.id = p.id<<8 | uint64(b)
		}
	}
	s.pages = append(s.pages, p)
	l.Continue = base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d/%d", p.revision, p.id))
}

func (s *Store) nextPage(kind string, limit int, cont string) (List, error) {
	text, err := base64.RawURLEncoding.DecodeString(cont)
	r, i, ok := strings.Cut(string(text), "/")
	revision, err1 := strconv.ParseUint(r, 10, 64)
	id, err2 := strconv.ParseUint(i, 10, 64)
	if err != nil || !ok || err1 != nil || err2 != nil {
		return List{}, fmt.Errorf("continue token %q is not one that was given", cont)
	}
	now := s.now()
	s.mu.Lock()
	at := slices.IndexFunc(s.pages, func(p page) bool {
		return p.id == id && p.revision == revision && p.kind == kind && now.Sub(p.at) <= pageTime
	})
	if at < 0 {
		defer s.mu.Unlock()
		return List{}, &GoneError{revision, s.revision}
	}
	// It stays: whoever lost the answer asks for this page again.
	l := List{Items: s.pages[at].rest, Revision: revision}
	s.mu.Unlock()
	if limit > 0 && limit < len(l.Items) {
		s.keepPage(kind, &l, limit)
	}
	return l, nil
}

// Owned names the objects that name this one as an owner.
func (s *Store) Owned(owner types.UID) []Ref {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var refs []Ref
	for r := range s.owned[owner] {
		refs = append(refs, r)
	}
	slices.SortFunc(refs, func(a, b Ref) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return refs
}

// Kinds names all kinds, sorted.
func (s *Store) Kinds() []string {
	var names []string
	for k := range s.kinds {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}
