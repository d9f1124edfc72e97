package rest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"

	"github.com/minirun/minirun/orchestrate/api"
	"github.com/minirun/minirun/orchestrate/store"
)

// maxBody bounds what a request may carry.
const maxBody = 3 << 20

// Server is the API over one store.
type Server struct {
	// Node, if not nil, runs the pods: without it there are no logs, no exec and
	// no metrics. It is set before the first request.
	Node Node

	s *store.Store
	r *api.Registry
}

// New makes a server.
func New(s *store.Store, r *api.Registry) *Server { return &Server{s: s, r: r} }

// request is what a path and a query ask for.
type request struct {
	*http.Request
	kind                 *api.Kind
	namespace, name, sub string
	dryRun               bool
}

// problem is an error with a status of HTTP of its own.
type problem struct {
	code   int32
	reason metav1.StatusReason
	text   string
}

func (p *problem) Error() string { return p.text }

// Status makes it what api.StatusOf looks for.
func (p *problem) Status() metav1.Status {
	return metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusFailure, Code: p.code, Reason: p.reason, Message: p.text,
		Details: &metav1.StatusDetails{}, // kubectl debug reads it without looking
	}
}

func bad(format string, args ...any) error {
	return &problem{http.StatusBadRequest, metav1.StatusReasonBadRequest, fmt.Sprintf(format, args...)}
}

var (
	errNowhere = &problem{http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource"}
	errVerb    = &problem{http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, "the server does not allow this method on the requested resource"}
)

// ServeHTTP serves one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := &request{Request: r}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := cmp.Or(asOther(r.Header), foreign(r)); err != nil {
		s.fail(w, q, err)
		return
	}
	if s.openAPI(w, r) {
		return
	}
	if doc := s.discover(r.URL.Path); doc != nil {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			s.fail(w, q, errVerb)
			return
		}
		reply(w, http.StatusOK, doc)
		return
	}
	if s.metrics(w, q) || s.review(w, q) {
		return
	}
	err := s.parse(q)
	if err == nil {
		err = s.serve(w, q)
	}
	if err != nil && !errors.Is(err, errAnswered) {
		s.fail(w, q, err)
	}
}

// errAnswered is of a request whose answer has begun, or is not ours to write.
var errAnswered = errors.New("the answer has begun")

// parse reads the path: /api/v1/... and /apis/group/version/..., then either
// namespaces/NAMESPACE/RESOURCE/NAME/SUBRESOURCE or the same without the first two.
func (s *Server) parse(q *request) error {
	parts := strings.Split(strings.Trim(q.URL.Path, "/"), "/")
	group, version := "", ""
	switch {
	case parts[0] == "api" && len(parts) > 2:
		version, parts = parts[1], parts[2:]
	case parts[0] == "apis" && len(parts) > 3:
		group, version, parts = parts[1], parts[2], parts[3:]
	default:
		return errNowhere
	}
	if parts[0] == "namespaces" && len(parts) > 2 && parts[2] != "status" {
		q.namespace, parts = parts[1], parts[2:]
	}
	if q.kind = s.r.Resource(group, version, parts[0]); q.kind == nil || len(parts) > 3 || !q.kind.Namespaced && q.namespace != "" {
		return errNowhere
	}
	if len(parts) > 1 {
		q.name = parts[1]
	}
	if len(parts) > 2 {
		q.sub = parts[2]
	}
	switch known := q.sub == "" || q.sub == "status" && q.kind.Status || q.sub == "scale" && q.kind.Scale || isEphemeral(q) || podSub(q) != nil; {
	case !known:
		return errNowhere
	case q.name != "" && q.kind.Namespaced && q.namespace == "":
		return errNowhere
	}
	for _, d := range q.URL.Query()["dryRun"] {
		if d != metav1.DryRunAll {
			return bad("dryRun %q is not %q", d, metav1.DryRunAll)
		}
		q.dryRun = true
	}
	return nil
}

func (s *Server) serve(w http.ResponseWriter, q *request) error {
	if f := podSub(q); f != nil {
		return f(s, w, q)
	}
	switch {
	case q.Method == http.MethodGet && q.name == "":
		if v := q.URL.Query().Get("watch"); v == "true" || v == "1" {
			return s.watch(w, q)
		}
		return s.list(w, q)
	case q.Method == http.MethodGet:
		obj, err := s.s.Get(q.kind.Name(), q.namespace, q.name)
		if err != nil {
			return err
		}
		return s.object(w, q, http.StatusOK, obj)
	case q.Method == http.MethodPost && q.name == "":
		return s.create(w, q)
	case q.Method == http.MethodPut && q.name != "":
		return s.put(w, q)
	case q.Method == http.MethodPatch && q.name != "":
		return s.patch(w, q)
	case q.Method == http.MethodDelete && q.name != "" && q.sub == "":
		return s.delete(w, q)
	case q.Method == http.MethodDelete && q.name == "":
		return s.deleteAll(w, q)
	}
	return errVerb
}

// body reads what the request carries, as JSON or YAML.
func (s *Server) body(q *request) ([]byte, error) {
	b, err := io.ReadAll(q.Body)
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return nil, &problem{http.StatusRequestEntityTooLarge, metav1.StatusReasonRequestEntityTooLarge, fmt.Sprintf("the request is larger than %d bytes", maxBody)}
	}
	if err != nil {
		return nil, bad("read the request: %v", err)
	}
	return fromProtobuf(s.r, q, b)
}

// decode reads an object of the request's kind. Unknown fields are refused or
// warned about, as the client wishes.
func (s *Server) decode(w http.ResponseWriter, q *request, text []byte) (store.Object, error) {
	d, err := s.decoded(w, q, text)
	if err != nil {
		return nil, err
	}
	return d.Object, nil
}

func (s *Server) decoded(w http.ResponseWriter, q *request, text []byte) (*api.Decoded, error) {
	all, err := s.r.Decode(text)
	if err != nil {
		return nil, err
	}
	if len(all) != 1 {
		return nil, bad("want one object, have %d", len(all))
	}
	d := &all[0]
	if d.Kind != q.kind {
		return nil, bad("the object is a %s, and the path is of %s", d.Kind.Kind, q.kind.Resource)
	}
	switch mode := q.URL.Query().Get("fieldValidation"); mode {
	case "", "Warn":
		for _, u := range d.Unknown {
			w.Header().Add("Warning", fmt.Sprintf("299 - %q", u.Path+": "+u.Err.Error()))
		}
	case "Strict":
		if err := api.Strict(all); err != nil {
			return nil, bad("strict decoding error: %v", err)
		}
	case "Ignore":
	default:
		return nil, bad("fieldValidation %q is not Ignore, Warn or Strict", mode)
	}
	obj := d.Object
	switch ns := obj.GetNamespace(); {
	case ns == "":
		obj.SetNamespace(q.namespace)
	case ns != q.namespace:
		return nil, bad("the namespace of the object (%s) does not match the namespace on the request (%s)", ns, q.namespace)
	}
	if q.name != "" && obj.GetName() != q.name {
		return nil, bad("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), q.name)
	}
	for _, u := range d.Unsupported {
		// What has nothing to do is said to who writes it, not at each change.
		if e, ok := u.Err.(*api.UnsupportedError); !ok || e.Why == "" {
			w.Header().Add("Warning", fmt.Sprintf("299 - %q", u.Path+": "+u.Err.Error()))
		}
	}
	return d, nil
}

func (s *Server) create(w http.ResponseWriter, q *request) error {
	text, err := s.body(q)
	if err != nil {
		return err
	}
	obj, err := s.decode(w, q, text)
	if err != nil {
		return err
	}
	if obj, err = s.createObject(q, obj, nil); err != nil {
		return err
	}
	return s.object(w, q, http.StatusCreated, obj)
}

// createObject stores a new object, with managed fields if it has some.
func (s *Server) createObject(q *request, obj store.Object, managed []metav1.ManagedFieldsEntry) (store.Object, error) {
	if q.kind.Namespaced {
		ns, err := s.s.Get("namespaces", "", q.namespace)
		if err != nil {
			return nil, err
		}
		if ns.GetDeletionTimestamp() != nil {
			return nil, &problem{http.StatusForbidden, metav1.StatusReasonForbidden, fmt.Sprintf("namespace %q is being deleted", q.namespace)}
		}
	}
	if err := api.Prepare(q.kind, obj); err != nil {
		return nil, err
	}
	if err := api.Validate(q.kind, obj, nil); err != nil {
		return nil, err
	}
	obj.SetManagedFields(managed)
	if q.dryRun {
		if obj.GetName() != "" {
			if _, err := s.s.Get(q.kind.Name(), obj.GetNamespace(), obj.GetName()); err == nil {
				return nil, &store.ExistsError{Kind: q.kind.Name(), Namespace: obj.GetNamespace(), Name: obj.GetName()}
			}
		}
		return obj, nil
	}
	return s.s.Create(q.kind.Name(), obj)
}

func (s *Server) put(w http.ResponseWriter, q *request) error {
	text, err := s.body(q)
	if err != nil {
		return err
	}
	old, err := s.s.Get(q.kind.Name(), q.namespace, q.name)
	if err != nil {
		return err
	}
	var obj store.Object
	if q.sub == "scale" {
		obj, err = rescale(old, text)
	} else {
		obj, err = s.decode(w, q, text)
	}
	if err != nil {
		return err
	}
	return s.replace(w, q, obj, old)
}

// replace stores what takes the place of old.
func (s *Server) replace(w http.ResponseWriter, q *request, obj, old store.Object) error {
	stored, err := s.update(q, obj, old, old.GetManagedFields())
	if err != nil {
		return err
	}
	return s.object(w, q, http.StatusOK, stored)
}

func (s *Server) update(q *request, obj, old store.Object, managed []metav1.ManagedFieldsEntry) (store.Object, error) {
	part := store.Main
	switch {
	case q.sub == "status":
		part = store.Status
	case isEphemeral(q):
		var err error
		if obj, err = withEphemeral(q, obj, old); err != nil {
			return nil, err
		}
	default:
		obj.SetManagedFields(managed)
		api.Default(obj)
		if err := api.Validate(q.kind, obj, old); err != nil {
			return nil, err
		}
	}
	if q.dryRun {
		return obj, nil
	}
	return s.s.Update(q.kind.Name(), obj, part)
}

// deleteOptions reads how something is to be deleted.
func (s *Server) deleteOptions(q *request) (*metav1.DeleteOptions, error) {
	text, err := s.body(q)
	if err != nil {
		return nil, err
	}
	var o metav1.DeleteOptions
	if len(strings.TrimSpace(string(text))) > 0 {
		if err := json.Unmarshal(text, &o); err != nil {
			return nil, bad("DeleteOptions: %v", err)
		}
	}
	query := q.URL.Query()
	if v := query.Get("gracePeriodSeconds"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return nil, bad("gracePeriodSeconds %q is no number", v)
		}
		o.GracePeriodSeconds = &n
	}
	if v := query.Get("propagationPolicy"); v != "" {
		p := metav1.DeletionPropagation(v)
		o.PropagationPolicy = &p
	}
	if errs := validation.ValidateDeleteOptions(&o); len(errs) > 0 {
		return nil, bad("DeleteOptions: %v", errs.ToAggregate())
	}
	q.dryRun = q.dryRun || len(o.DryRun) > 0
	return &o, nil
}

func (s *Server) delete(w http.ResponseWriter, q *request) error {
	o, err := s.deleteOptions(q)
	if err != nil {
		return err
	}
	old, err := s.s.Get(q.kind.Name(), q.namespace, q.name)
	if err != nil {
		return err
	}
	if q.kind.Resource == "namespaces" && api.Permanent(q.name) {
		return &problem{http.StatusForbidden, metav1.StatusReasonForbidden, fmt.Sprintf("namespaces %q is forbidden: this namespace may not be deleted", q.name)}
	}
	if q.dryRun {
		return s.object(w, q, http.StatusOK, old)
	}
	obj, err := s.s.Delete(q.kind.Name(), q.namespace, q.name, deletion(old, o))
	if err != nil {
		return err
	}
	return s.object(w, q, http.StatusOK, obj)
}

// deleteAll deletes what a selector chooses.
func (s *Server) deleteAll(w http.ResponseWriter, q *request) error {
	sel, err := selector(q)
	if err != nil {
		return err
	}
	o, err := s.deleteOptions(q)
	if err != nil {
		return err
	}
	if q.kind.Resource == "namespaces" || q.kind.Namespaced && q.namespace == "" {
		return errVerb
	}
	l, err := s.s.List(q.kind.Name(), sel, 0, "")
	if err != nil {
		return err
	}
	for _, obj := range l.Items {
		if q.dryRun {
			break
		}
		_, err := s.s.Delete(q.kind.Name(), obj.GetNamespace(), obj.GetName(), deletion(obj, o))
		var gone *store.NotFoundError
		if err != nil && !errors.As(err, &gone) {
			return err
		}
	}
	return s.items(w, q, l, false)
}
