package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// helperTimeout is for programs that ask somebody something.
const helperTimeout = 2 * time.Minute

// notFound are what helpers print when they have no credential for a host; see
// docker-credential-helpers, credentials/error.go.
const helperNotFound = "credentials not found in native keychain"

// runHelper runs docker-credential-NAME with an action: get, store or erase. Of
// get it returns the answer; the empty credential if there is none.
func runHelper(ctx context.Context, name, action string, input []byte) (Credential, error) {
	program := "docker-credential-" + name
	if name == "" || strings.ContainsAny(name, "/\\\x00") || strings.HasPrefix(name, ".") {
		return Credential{}, fmt.Errorf("credential helper %q: that is no name", name)
	}
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, action)
	var out bounded
	out.limit = 1 << 20
	cmd.Stdin, cmd.Stdout = bytes.NewReader(input), &out
	cmd.WaitDelay = time.Second // for what it leaves behind with the pipe open
	err := cmd.Run()
	if err != nil {
		text := strings.TrimSpace(out.b.String())
		if action == "get" && text == helperNotFound {
			return Credential{}, nil
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if errors.Is(err, exec.ErrNotFound) {
			return Credential{}, &helperError{program: program, err: err}
		}
		if text != "" { // helpers print errors to standard output, and no secrets with them
			err = fmt.Errorf("%w: %s", err, oneLine(text))
		}
		return Credential{}, fmt.Errorf("%s %s: %w", program, action, err)
	}
	if action != "get" {
		return Credential{}, nil
	}
	var answer struct{ Username, Secret string }
	if err := json.Unmarshal(out.b.Bytes(), &answer); err != nil {
		return Credential{}, fmt.Errorf("%s get: its answer is no JSON", program) // which may hold a secret
	}
	if answer.Username == "<token>" {
		return Credential{IdentityToken: answer.Secret}, nil
	}
	return Credential{Username: answer.Username, Password: answer.Secret}, nil
}

type helperError struct {
	program string
	err     error
}

func (e *helperError) Error() string { return fmt.Sprintf("%s: %v", e.program, e.err) }
func (e *helperError) Unwrap() error { return e.err }
func (e *helperError) Hint() string {
	return "docker's config.json names this helper in credsStore or credHelpers: install it, or take the entry out"
}

// bounded keeps the beginning of what is written to it.
type bounded struct {
	b     bytes.Buffer // not embedded: its ReadFrom knows no limit
	limit int
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := b.limit - b.b.Len(); room > 0 {
		b.b.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
