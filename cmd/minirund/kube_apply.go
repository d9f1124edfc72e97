package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/minirun/minirun/orchestrate/api"
	"github.com/minirun/minirun/orchestrate/client"
	"github.com/urfave/cli/v2"
)

// fileError says where in which file something is wrong.
type fileError struct {
	path string
	err  error
}

func (e *fileError) Error() string { return e.path + ": " + e.err.Error() }
func (e *fileError) Unwrap() error { return e.err }

func kubeApply(u *ui) *cli.Command {
	return kubeAction(u, &cli.Command{
		Name: "apply", Usage: "make objects what files say, and create those that do not exist",
		Flags: []cli.Flag{fileFlag(), namespaceFlag(), dryRunFlag(), outputFlag("`FORMAT` is yaml, json or name")},
	}, 0, 0, func(k *kube) error { return k.fromFiles((*kube).applyOne) })
}

func kubeCreate(u *ui) *cli.Command {
	return kubeAction(u, &cli.Command{
		Name: "create", Usage: "create objects from files, or a namespace: create namespace NAME", ArgsUsage: "[namespace NAME]",
		Flags: []cli.Flag{fileFlag(), namespaceFlag(), dryRunFlag(), outputFlag("`FORMAT` is yaml, json or name")},
	}, 0, 2, func(k *kube) error {
		if args := k.c.Args().Slice(); len(args) > 0 {
			if x, err := k.kind(args[0]); len(args) != 2 || err != nil || x.Resource != "namespaces" {
				return k.usage("objects other than namespaces are created from files, with --filename")
			}
			text, err := json.Marshal(object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": args[1]}})
			if err != nil {
				return err
			}
			all, err := k.registry.Decode(text)
			if err != nil {
				return err
			}
			return k.createOne(&all[0])
		}
		return k.fromFiles((*kube).createOne)
	})
}

// fromFiles reads all files, and only then begins to change something.
func (k *kube) fromFiles(f func(*kube, *api.Decoded) error) error {
	all, err := k.files()
	if err != nil {
		return err
	}
	var errs []error
	for i := range all {
		err := f(k, &all[i])
		var down *client.NotRunningError
		if errors.As(err, &down) || k.ctx.Err() != nil {
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// files reads the objects of all files. Whatever is wrong with any of them comes
// out at once.
func (k *kube) files() (all []api.Decoded, err error) {
	names := k.c.StringSlice("filename")
	if len(names) == 0 {
		return nil, k.usage("say which file, with --filename")
	}
	var errs []error
	for _, name := range names {
		if strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://") {
			return nil, k.usage("%s: objects come from files; fetch it first", name)
		}
		paths, err := inDirectory(name)
		errs = append(errs, err)
		for _, p := range paths {
			objects, err := k.file(p)
			all = append(all, objects...)
			errs = append(errs, err)
		}
	}
	return all, errors.Join(errs...)
}

func inDirectory(name string) ([]string, error) {
	st, err := os.Stat(name)
	if name == "-" || err == nil && !st.IsDir() {
		return []string{name}, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range list {
		if !e.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(e.Name())) {
			out = append(out, filepath.Join(name, e.Name()))
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: no file .yaml, .yml or .json", name)
	}
	return out, nil
}

// maxFile bounds a file with objects.
const maxFile = 32 << 20

func (k *kube) file(path string) ([]api.Decoded, error) {
	in, err := openInput(k.u, path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	text, err := io.ReadAll(io.LimitReader(in, maxFile))
	if err != nil {
		return nil, err
	}
	if path == "-" {
		path = "standard input"
	}
	wrap := func(err error) error {
		var out []error
		for _, e := range split(err) {
			if e != nil {
				out = append(out, &fileError{path, e})
			}
		}
		return errors.Join(out...)
	}
	all, err := k.registry.Decode(text)
	if err != nil {
		return nil, wrap(err)
	}
	if len(all) == 0 {
		return nil, &fileError{path, errors.New("no objects")}
	}
	errs := []error{api.Strict(all)}
	wrong, idle := api.Effective(all)
	for _, w := range wrong {
		errs = append(errs, w)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, wrap(err)
	}
	for _, i := range idle {
		k.u.warn("%s: %w", path, i)
	}
	return all, nil
}

// at is where an object of a file goes.
func (k *kube) at(d *api.Decoded) (*kube, ref, error) {
	there := *k
	if ns := d.Object.GetNamespace(); ns != "" && d.Kind.Namespaced {
		if k.c.IsSet("namespace") && ns != k.namespace {
			return nil, ref{}, fmt.Errorf("%s %q is of namespace %q, and --namespace is %q", d.Kind.Kind, d.Object.GetName(), ns, k.namespace)
		}
		there.namespace = ns
	}
	return &there, ref{d.Kind, d.Object.GetName()}, nil
}

// printed tells whether the object is printed instead of what happened to it.
func (k *kube) printed(o object) (bool, error) {
	output := k.c.String("output")
	if output == "" || output == "name" {
		return false, nil
	}
	if output != "yaml" && output != "json" {
		return false, k.usage("unknown output %q, want yaml, json or name", output)
	}
	delete(o.metadata(), "managedFields")
	return true, k.print([]object{o}, true, output, "")
}

func (k *kube) applyOne(d *api.Decoded) error {
	k, r, err := k.at(d)
	if err != nil {
		return err
	}
	if r.name == "" {
		return fmt.Errorf("%s without a name: generateName is for minirun kube create", d.Kind.Kind)
	}
	var old object
	if err := k.api.Get(k.ctx, k.path(r), &old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var now object
	q := k.changing()
	q.Set("force", "true")
	if err := k.patch(r, "apply-patch+yaml", d.JSON, q, &now); err != nil {
		return err
	}
	if done, err := k.printed(now); done || err != nil {
		return err
	}
	switch {
	case old == nil:
		k.did(r, "created")
	case sameObject(old, now):
		k.did(r, "unchanged")
	default:
		k.did(r, "configured")
	}
	return nil
}

// sameObject compares all but what controllers and the server keep for themselves,
// which may change at any time.
func sameObject(a, b object) bool {
	text := func(o object) string {
		for _, f := range []string{"managedFields", "resourceVersion", "generation"} {
			delete(o.metadata(), f)
		}
		if notes, ok := o.at("metadata", "annotations").(map[string]any); ok {
			maps.DeleteFunc(notes, func(name string, _ any) bool { return strings.HasPrefix(name, "deployment.kubernetes.io/") })
			if len(notes) == 0 {
				delete(o.metadata(), "annotations")
			}
		}
		delete(o, "status")
		t, _ := json.Marshal(o)
		return string(t)
	}
	return text(a) == text(b)
}

func (k *kube) createOne(d *api.Decoded) error {
	k, r, err := k.at(d)
	if err != nil {
		return err
	}
	var now object
	err = k.api.Into(k.ctx, client.Request{Method: "POST", Path: withQuery(collection(d.Kind, k.namespace), k.changing()), Body: d.JSON}, &now)
	if err != nil {
		return err
	}
	if done, err := k.printed(now); done || err != nil {
		return err
	}
	r.name = now.str("metadata", "name")
	k.did(r, "created")
	return nil
}

func kubeDiff(u *ui) *cli.Command {
	return kubeAction(u, &cli.Command{
		Name: "diff", Usage: "print what apply would change; the exit status is 1 if it is something",
		Flags: []cli.Flag{fileFlag(), namespaceFlag()},
	}, 0, 0, func(k *kube) error {
		different := false
		err := k.fromFiles(func(k *kube, d *api.Decoded) error {
			k, r, err := k.at(d)
			if err != nil {
				return err
			}
			var old, now object
			if err := k.api.Get(k.ctx, k.path(r), &old); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			q := url.Values{"fieldManager": {"minirun"}, "dryRun": {"All"}}
			if err := k.patch(r, "apply-patch+yaml", d.JSON, q, &now); err != nil {
				return err
			}
			a, err := diffText(old)
			if err != nil {
				return err
			}
			b, err := diffText(now)
			if err != nil {
				return err
			}
			if slices.Equal(a, b) {
				return nil
			}
			different = true
			name := r.String()
			if d.Kind.Namespaced {
				name = k.namespace + "/" + name
			}
			_, err = fmt.Fprintf(k.u.out, "--- live/%s\n+++ file/%s\n%s", name, name, unified(a, b))
			return err
		})
		if err == nil && different {
			return exitStatus(1)
		}
		return err
	})
}

// diffText is an object as lines, without what changes by itself.
func diffText(o object) ([]string, error) {
	if o == nil {
		return nil, nil
	}
	for _, f := range []string{"managedFields", "resourceVersion", "generation", "uid", "creationTimestamp"} {
		delete(o.metadata(), f)
	}
	delete(o, "status")
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	if text, err = api.YAML(text); err != nil {
		return nil, err
	}
	return slices.Collect(strings.Lines(string(text))), nil
}

// unified compares two texts: three lines around each change, as diff -u does.
func unified(a, b []string) string {
	// The longest common subsequence; objects have some hundred lines.
	n := make([][]int, len(a)+1)
	for i := range n {
		n[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				n[i][j] = n[i+1][j+1] + 1
			} else {
				n[i][j] = max(n[i+1][j], n[i][j+1])
			}
		}
	}
	type line struct {
		mark byte
		text string
		i, j int
	}
	var all []line
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			all = append(all, line{' ', a[i], i, j})
			i, j = i+1, j+1
		case i < len(a) && (j == len(b) || n[i+1][j] >= n[i][j+1]):
			all = append(all, line{'-', a[i], i, j})
			i++
		default:
			all = append(all, line{'+', b[j], i, j})
			j++
		}
	}
	const around = 3
	near := make([]bool, len(all))
	for x, l := range all {
		if l.mark != ' ' {
			for y := max(0, x-around); y <= min(len(all)-1, x+around); y++ {
				near[y] = true
			}
		}
	}
	var out strings.Builder
	for x := 0; x < len(all); {
		if !near[x] {
			x++
			continue
		}
		end := x
		olds, news := 0, 0
		var body strings.Builder
		for ; end < len(all) && near[end]; end++ {
			l := all[end]
			if l.mark != '+' {
				olds++
			}
			if l.mark != '-' {
				news++
			}
			body.WriteByte(l.mark)
			body.WriteString(l.text)
		}
		from, to := all[x].i+1, all[x].j+1
		if olds == 0 {
			from--
		}
		if news == 0 {
			to--
		}
		fmt.Fprintf(&out, "@@ -%d,%d +%d,%d @@\n%s", from, olds, to, news, body.String())
		x = end
	}
	return out.String()
}
