package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"time"
)

// StatusError is an answer of a registry that is not the one that was wanted.
type StatusError struct {
	What       string // `manifest latest`, `blob sha256:...`
	Host       string
	Status     int
	Code       string        // the registry's own, such as MANIFEST_UNKNOWN
	Message    string        // its text, one line
	RetryAfter time.Duration // what it asks for, 0 if nothing
}

func (e *StatusError) Error() string {
	s := fmt.Sprintf("%s at %s: %d %s", e.What, e.Host, e.Status, strings.ToLower(http.StatusText(e.Status)))
	if e.Code != "" {
		s += ", " + e.Code
	}
	if e.Message != "" && !strings.EqualFold(strings.ReplaceAll(e.Code, "_", " "), e.Message) {
		s += ": " + e.Message
	}
	return s
}

// Is makes 404 fs.ErrNotExist and 403 fs.ErrPermission.
func (e *StatusError) Is(target error) bool {
	switch e.Status {
	case http.StatusNotFound:
		return target == fs.ErrNotExist
	case http.StatusForbidden, http.StatusUnauthorized:
		return target == fs.ErrPermission
	}
	return false
}

// Hint says what people can do.
func (e *StatusError) Hint() string {
	switch {
	case e.Status == http.StatusNotFound:
		return "check the name and the tag; a registry may also hide what needs a login: minirun login " + e.Host
	case e.Status == http.StatusForbidden:
		return "the account may not do that; log in as another: minirun login " + e.Host
	case e.Status == http.StatusTooManyRequests:
		return "the registry limits requests: wait, log in with minirun login " + e.Host + ", or configure a mirror in hosts.toml"
	case e.Status >= 500:
		return "the registry has trouble; what has arrived is kept, so try again later"
	}
	return ""
}

// retryable tells answers that another time may be different.
func (e *StatusError) retryable() bool {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return false
	}
	return e.Status >= 500
}

// AuthError reports that a registry wants credentials: there are none, or it
// does not take those that there are.
type AuthError struct {
	Host     string
	Rejected bool // there were some
	Reason   string
}

func (e *AuthError) Error() string {
	s := e.Host + " wants a login"
	if e.Rejected {
		s = e.Host + " does not accept the credentials"
	}
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	return s
}

// Is makes it fs.ErrPermission.
func (e *AuthError) Is(target error) bool { return target == fs.ErrPermission }

// Hint says what people can do.
func (e *AuthError) Hint() string { return "minirun login " + e.Host }

// SecurityError reports what is refused because credentials or content would go
// a way that they must not.
type SecurityError struct{ Reason string }

func (e *SecurityError) Error() string { return e.Reason }

// StallError reports a connection on which nothing came for too long.
type StallError struct{ After time.Duration }

func (e *StallError) Error() string { return fmt.Sprintf("nothing arrived for %v", e.After) }

// Timeout makes it a net.Error's kind of error.
func (e *StallError) Timeout() bool { return true }

// SchemeError reports a host that answers https with plain http.
type SchemeError struct{ Host string }

func (e *SchemeError) Error() string { return e.Host + " speaks plain http and not https" }

// Hint says what people can do.
func (e *SchemeError) Hint() string {
	return "if that is right: --insecure, or a hosts.toml with server = \"http://" + e.Host + "\""
}

// SpaceError reports that the store's file system is too small for an image.
type SpaceError struct {
	Dir        string
	Need, Free int64
	err        error // ENOSPC
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("%q has %d bytes free, %d more have to be fetched: %v", e.Dir, e.Free, e.Need, e.err)
}
func (e *SpaceError) Unwrap() error { return e.err }

// responseError makes an error of an answer, with the registry's own words.
func responseError(what string, e *endpoint, resp *http.Response) error {
	err := &StatusError{What: what, Host: e.name(), Status: resp.StatusCode, RetryAfter: retryAfter(resp, time.Now())}
	b, readErr := io.ReadAll(io.LimitReader(resp.Body, 16<<10))
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if readErr == nil && json.Unmarshal(b, &body) == nil && len(body.Errors) > 0 {
		err.Code, err.Message = oneLine(body.Errors[0].Code), oneLine(body.Errors[0].Message)
	}
	return err
}

// oneLine makes text of a registry fit for an error.
func oneLine(s string) string {
	if len(s) > 300 {
		s = s[:300] + "..."
	}
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 }), " ")
}

// localError is a failure on this side: no other host can help.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

func isLocal(err error) bool {
	var l *localError
	return errors.As(err, &l)
}
