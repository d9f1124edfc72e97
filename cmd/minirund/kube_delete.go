package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"time"

	"github.com/minirun/minirun/orchestrate/client"
	"github.com/urfave/cli/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func kubeDelete(u *ui) *cli.Command {
	return kubeAction(u, &cli.Command{
		Name: "delete", Usage: "delete objects and wait until they are gone", ArgsUsage: "KIND NAME... | KIND/NAME... | KIND --selector SELECTOR | KIND --all | --filename FILE",
		Flags: []cli.Flag{
			fileFlag(), namespaceFlag(), selectorFlag(), fieldSelectorFlag(), dryRunFlag(), outputFlag("`FORMAT` is name"),
			&cli.BoolFlag{Name: "all", Usage: "all objects of the kind in the namespace"},
			&cli.Int64Flag{Name: "grace-period", Value: -1, Usage: "`SECONDS` that pods have to end (default: what they say)"},
			&cli.BoolFlag{Name: "now", Usage: "the same as --grace-period 1"},
			&cli.BoolFlag{Name: "force", Usage: "with --grace-period 0: do not even wait for the node"},
			&cli.StringFlag{Name: "cascade", Value: "background", Usage: "what happens to what the objects own: `HOW` is background, foreground or orphan"},
			&cli.BoolFlag{Name: "wait", Value: true, Usage: "wait until the objects are gone"},
			&cli.DurationFlag{Name: "timeout", Usage: "wait no longer than `TIME`"},
			&cli.BoolFlag{Name: "ignore-not-found", Usage: "an object that does not exist is no error"},
		},
	}, 0, -1, (*kube).delete)
}

func (k *kube) deleteOptions() ([]byte, error) {
	o := metav1.DeleteOptions{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"}}
	grace := k.c.Int64("grace-period")
	if k.c.Bool("now") {
		grace = 1
	}
	if grace == 0 && !k.c.Bool("force") {
		grace = 1 // the node still ends the processes
	}
	if grace >= 0 {
		o.GracePeriodSeconds = &grace
	}
	how := map[string]metav1.DeletionPropagation{"background": metav1.DeletePropagationBackground, "foreground": metav1.DeletePropagationForeground, "orphan": metav1.DeletePropagationOrphan}[k.c.String("cascade")]
	if how == "" {
		return nil, k.usage("--cascade %q, want background, foreground or orphan", k.c.String("cascade"))
	}
	o.PropagationPolicy = &how
	if k.c.Bool("dry-run") {
		o.DryRun = []string{metav1.DryRunAll}
	}
	return json.Marshal(o)
}

// deleted is an object that is being deleted, in its namespace.
type deleted struct {
	k   *kube
	r   ref
	uid string
}

func (k *kube) delete() error {
	body, err := k.deleteOptions()
	if err != nil {
		return err
	}
	var all []deleted
	if len(k.c.StringSlice("filename")) > 0 {
		if k.c.Args().Present() {
			return k.usage("either files or objects")
		}
		objects, err := k.files()
		if err != nil {
			return err
		}
		for i := range objects {
			there, r, err := k.at(&objects[i])
			if err != nil {
				return err
			}
			all = append(all, deleted{k: there, r: r})
		}
	} else {
		refs, err := k.refs(k.c.Args().Slice())
		if err != nil {
			return err
		}
		q := k.chosen()
		for _, r := range refs {
			if r.name == "" && len(q) == 0 && !k.c.Bool("all") {
				return k.usage("say which objects: names, --selector or --all")
			}
		}
		if refs, err = k.expand(refs, q); err != nil {
			return err
		}
		if len(refs) == 0 {
			fmt.Fprintln(k.u.err, "No resources found")
			return nil
		}
		for _, r := range refs {
			all = append(all, deleted{k: k, r: r})
		}
	}
	var going []deleted
	var errs []error
	for _, d := range all {
		var answer object
		err := d.k.api.Into(k.ctx, client.Request{Method: "DELETE", Path: d.k.path(d.r), Body: body}, &answer)
		var down *client.NotRunningError
		if errors.As(err, &down) {
			return err
		}
		if err = k.notFound(err); err != nil || answer == nil {
			errs = append(errs, err)
			continue
		}
		if k.c.String("output") == "name" {
			k.did(d.r, "")
		} else {
			what := fmt.Sprintf("%s %q deleted", resourceName(d.r.kind), d.r.name)
			if k.c.Bool("dry-run") {
				what += " (dry run)"
			}
			fmt.Fprintln(k.u.out, what)
		}
		d.uid = answer.str("metadata", "uid")
		going = append(going, d)
	}
	if !k.c.Bool("wait") || k.c.Bool("dry-run") {
		return errors.Join(errs...)
	}
	ctx := k.ctx
	if t := k.c.Duration("timeout"); t > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t)
		defer cancel()
	}
	for _, d := range going {
		if err := d.k.gone(ctx, d.r, d.uid); err != nil {
			errs = append(errs, fmt.Errorf("wait for the end of %s: %w", d.r, err))
		}
	}
	return errors.Join(errs...)
}

// gone waits until an object does not exist, or is another one.
func (k *kube) gone(ctx context.Context, r ref, uid string) error {
	return k.until(ctx, r, func(o object) (bool, error) {
		return o == nil || uid != "" && o.str("metadata", "uid") != uid, nil
	})
}

// until calls f with an object as it is, and whenever it has changed, until f
// returns true or an error. nil stands for one that does not exist.
func (k *kube) until(ctx context.Context, r ref, f func(object) (bool, error)) error {
	err := k.follow(ctx, r, f)
	if errors.Is(err, context.DeadlineExceeded) {
		err = errTimeout
	}
	return err
}

func (k *kube) follow(ctx context.Context, r ref, f func(object) (bool, error)) error {
	for {
		var o object
		err := k.api.Get(ctx, k.path(r), &o)
		after := o.str("metadata", "resourceVersion")
		if errors.Is(err, fs.ErrNotExist) {
			o, after = nil, ""
		} else if err != nil {
			return err
		}
		if done, err := f(o); done || err != nil {
			return err
		}
		q := url.Values{"watch": {"true"}, "fieldSelector": {"metadata.name=" + r.name}}
		if after != "" {
			q.Set("resourceVersion", after)
		}
		err = k.api.Watch(ctx, withQuery(collection(r.kind, k.namespace), q), "", func(e client.Event) (bool, error) {
			if e.Type == "DELETED" {
				return f(nil)
			}
			var o object
			if err := json.Unmarshal(e.Object, &o); err != nil {
				return false, err
			}
			return f(o)
		})
		var st *client.StatusError
		switch {
		case errors.As(err, &st) && st.Code == 410: // too much has happened: look again
		case errors.Is(err, io.ErrUnexpectedEOF) && ctx.Err() == nil:
			// The server has ended the watch, perhaps itself too: the next get tells.
		default:
			return err
		}
	}
}

var errTimeout = errors.New("timed out waiting for the condition")

// timeout bounds a wait.
func (k *kube) timeout() (context.Context, context.CancelFunc) {
	if t := k.c.Duration("timeout"); t > 0 {
		return context.WithTimeout(k.ctx, t)
	}
	return context.WithCancel(k.ctx)
}

func timeoutFlag(otherwise time.Duration) cli.Flag {
	return &cli.DurationFlag{Name: "timeout", Value: otherwise, Usage: "wait no longer than `TIME`"}
}
