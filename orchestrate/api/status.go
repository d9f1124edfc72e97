package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"syscall"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/minirun/minirun/orchestrate/store"
)

// clearStatus takes away the status that came with a new object.
func clearStatus(k *Kind, obj store.Object) error {
	if !k.Status {
		return nil
	}
	text, err := json.Marshal(obj)
	if err != nil {
		return err
	}
	var f map[string]json.RawMessage
	if err := json.Unmarshal(text, &f); err != nil {
		return err
	}
	if _, ok := f["status"]; !ok {
		return nil
	}
	delete(f, "status")
	if text, err = json.Marshal(f); err != nil {
		return err
	}
	clean := k.New()
	if err := json.Unmarshal(text, clean); err != nil {
		return err
	}
	clean.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind)
	return assign(obj, clean)
}

// StatusOf is the error as it goes over the wire.
func StatusOf(k *Kind, name string, err error) *metav1.Status {
	var s apierrors.APIStatus
	if errors.As(err, &s) {
		st := s.Status()
		st.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"} // without it, clients show JSON
		return &st
	}
	st := &metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusFailure, Message: err.Error(), Reason: metav1.StatusReasonInternalError, Code: http.StatusInternalServerError,
	}
	if k != nil {
		st.Details = &metav1.StatusDetails{Name: name, Group: k.Group, Kind: k.Resource}
	}
	say := func(code int32, reason metav1.StatusReason) { st.Code, st.Reason = code, reason }
	var (
		notFound *store.NotFoundError
		exists   *store.ExistsError
		conflict *store.ConflictError
		gone     *store.GoneError
		syntax   *SyntaxError
		wrong    *FieldError
		unknown  *KindError
		invalid  *InvalidError
	)
	switch {
	case errors.As(err, &notFound):
		say(http.StatusNotFound, metav1.StatusReasonNotFound)
	case errors.As(err, &exists):
		say(http.StatusConflict, metav1.StatusReasonAlreadyExists)
	case errors.As(err, &conflict):
		say(http.StatusConflict, metav1.StatusReasonConflict)
		if k != nil {
			st.Message = fmt.Sprintf("Operation cannot be fulfilled on %s %q: %s", k.GroupResource(), name, conflict.Why)
		}
	case errors.As(err, &gone):
		say(http.StatusGone, metav1.StatusReasonExpired)
	case errors.As(err, &invalid):
		say(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid)
		if st.Details == nil {
			st.Details = &metav1.StatusDetails{}
		}
		st.Details.Kind = invalid.Kind
		for _, e := range invalid.Errors {
			st.Details.Causes = append(st.Details.Causes, metav1.StatusCause{Type: metav1.CauseType(e.Type), Message: e.ErrorBody(), Field: e.Field})
		}
	case errors.As(err, &syntax), errors.As(err, &wrong), errors.As(err, &unknown):
		say(http.StatusBadRequest, metav1.StatusReasonBadRequest)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		st.Code = http.StatusInsufficientStorage // no reason of Kubernetes says it
	}
	return st
}

// InvalidError reports an object that is well formed and not valid.
type InvalidError struct {
	Kind, Name string
	Errors     field.ErrorList
}

func (e *InvalidError) Error() string {
	var all []string
	for _, x := range e.Errors {
		all = append(all, x.Error())
	}
	what := strings.Join(all, ", ")
	if len(all) > 1 {
		what = "[" + what + "]"
	}
	return fmt.Sprintf("%s %q is invalid: %s", e.Kind, e.Name, what)
}

// assign puts the value of one object into another of its type.
func assign(to, from store.Object) error {
	a, b := reflect.ValueOf(to), reflect.ValueOf(from)
	if a.Type() != b.Type() {
		return fmt.Errorf("%T is no %T", from, to)
	}
	a.Elem().Set(b.Elem())
	return nil
}
