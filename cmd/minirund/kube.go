package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/minirun/minirun/orchestrate/api"
	"github.com/minirun/minirun/orchestrate/client"
	"github.com/urfave/cli/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// kube is one command of minirun kube.
type kube struct {
	u         *ui
	c         *cli.Context
	ctx       context.Context
	api       *client.Client
	registry  *api.Registry
	namespace string // empty: all
}

func kubeCommand(u *ui) *cli.Command {
	return &cli.Command{
		Name:            "kube",
		Usage:           "look at and change what minirund keeps running",
		HideHelpCommand: true,
		OnUsageError:    onUsageError,
		Subcommands: []*cli.Command{
			kubeAnnotate(u), kubeAPIResources(u), kubeApply(u), kubeAttach(u), kubeConvert(u), kubeCreate(u), kubeDebug(u), kubeDelete(u), kubeDescribe(u), kubeDiff(u), kubeEvents(u),
			kubeExec(u), kubeExpose(u), kubeGet(u), kubeLabel(u), kubeLogs(u), kubePortForward(u), kubeRollout(u), kubeRun(u), kubeScale(u), kubeSet(u), kubeTop(u), kubeWait(u),
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return unknownCommand(c, "kube ")
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}

// Flags that many commands have.
func namespaceFlag() cli.Flag {
	return &cli.StringFlag{Name: "namespace", Aliases: []string{"n"}, Value: "default", Usage: "`NAMESPACE` of the objects"}
}

func allNamespacesFlag() cli.Flag {
	return &cli.BoolFlag{Name: "all-namespaces", Aliases: []string{"A"}, Usage: "objects of all namespaces"}
}

func selectorFlag() cli.Flag {
	return &cli.StringFlag{Name: "selector", Aliases: []string{"l"}, Usage: "only objects whose labels match `SELECTOR`"}
}

func fieldSelectorFlag() cli.Flag {
	return &cli.StringFlag{Name: "field-selector", Usage: "only objects whose fields match `SELECTOR`"}
}

func fileFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "filename", Aliases: []string{"f"}, Usage: "`FILE` or directory with objects, - for standard input. Repeatable", TakesFile: true}
}

func outputFlag(usage string) cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: usage}
}

func dryRunFlag() cli.Flag {
	return &cli.BoolFlag{Name: "dry-run", Usage: "change nothing, but check all that the server checks"}
}

// kubeAction makes a command of minirun kube.
func kubeAction(u *ui, c *cli.Command, min, max int, action func(k *kube) error) *cli.Command {
	c.Flags = append(c.Flags, &cli.StringFlag{Name: "socket", Usage: "`PATH` of minirund's socket", DefaultText: "$" + client.SocketVariable + " or " + client.DefaultSocket, TakesFile: true})
	c.UseShortOptionHandling = true
	c.OnUsageError = onUsageError
	c.HideHelpCommand = true
	// kubeArguments has put the flags in front: what looks like one now is an
	// argument, as of a program that is to run.
	c.Action = func(c *cli.Context) error {
		if n := c.NArg(); n < min || max >= 0 && n > max {
			return &usageError{text: fmt.Sprintf("%s: wrong number of arguments, want: %s", c.Command.HelpName, c.Command.ArgsUsage), command: c.Command.HelpName}
		}
		k := &kube{u: u, c: c, ctx: c.Context, api: client.New(client.Socket(c.String("socket"))), registry: api.NewRegistry(), namespace: c.String("namespace")}
		if c.Bool("all-namespaces") {
			k.namespace = ""
		}
		k.api.Warn = func(text string) { u.warn("%s", text) }
		return action(k)
	}
	return c
}

// usage is an error of the command line.
func (k *kube) usage(format string, args ...any) error {
	return &usageError{text: fmt.Sprintf(format, args...), command: k.c.Command.HelpName}
}

// kind finds a kind by what people call it: po, pods, Pod, deployments.apps.
func (k *kube) kind(name string) (*api.Kind, error) {
	word := strings.ToLower(name)
	plain, group, qualified := strings.Cut(word, ".")
	for _, x := range k.registry.Kinds() {
		if qualified && x.Group != group && x.Version+"."+x.Group != group {
			continue
		}
		if plain == x.Resource || plain == x.Singular || slices.Contains(x.Short, plain) {
			return x, nil
		}
	}
	text := fmt.Sprintf("there is no kind of objects called %q", name)
	best, meant := 2+len(plain)/4, ""
	for _, x := range k.registry.Kinds() {
		for _, n := range append([]string{x.Resource, x.Singular}, x.Short...) {
			if d := api.Distance(plain, n); d < best && d < len(n) {
				best, meant = d, n
			}
		}
	}
	if meant != "" {
		text += fmt.Sprintf(", did you mean %q", meant)
	}
	return nil, &hinted{errors.New(text), "minirun kube api-resources lists them"}
}

// all are the kinds that "all" stands for.
func (k *kube) all() (out []*api.Kind) {
	for _, name := range []string{"pods", "services", "daemonsets", "deployments", "replicasets", "statefulsets", "cronjobs", "jobs"} {
		x, _ := k.kind(name)
		out = append(out, x)
	}
	return out
}

// ref is an object, or all of a kind if it has no name.
type ref struct {
	kind *api.Kind
	name string
}

// String is what commands call it: deployment.apps/web.
func (r ref) String() string { return resourceName(r.kind) + "/" + r.name }

func resourceName(k *api.Kind) string {
	if k.Group == "" {
		return k.Singular
	}
	return k.Singular + "." + k.Group
}

// refs reads KIND[,KIND...] [NAME...] or KIND/NAME...
func (k *kube) refs(args []string) ([]ref, error) {
	var out []ref
	if len(args) > 0 && strings.Contains(args[0], "/") {
		for _, a := range args {
			kind, name, ok := strings.Cut(a, "/")
			switch {
			case !ok:
				return nil, k.usage("%q: when one argument is KIND/NAME, all are", a)
			case name == "":
				return nil, k.usage("%q: there is no name behind the slash", a)
			}
			x, err := k.kind(kind)
			if err != nil {
				return nil, err
			}
			out = append(out, ref{x, name})
		}
		return out, nil
	}
	if len(args) == 0 {
		return nil, k.usage("say which objects: KIND, KIND NAME... or KIND/NAME...")
	}
	var kinds []*api.Kind
	for name := range strings.SplitSeq(args[0], ",") {
		if name == "all" {
			kinds = append(kinds, k.all()...)
			continue
		}
		x, err := k.kind(name)
		if err != nil {
			return nil, err
		}
		kinds = append(kinds, x)
	}
	for _, x := range kinds {
		if len(args) == 1 {
			out = append(out, ref{x, ""})
		}
		for _, name := range args[1:] {
			if strings.Contains(name, "/") {
				return nil, k.usage("%q: when one argument is KIND/NAME, all are", name)
			}
			out = append(out, ref{x, name})
		}
	}
	return out, nil
}

// one reads a single object; kinds, if there are some, are those that can be it.
// Without a kind it is a pod.
func (k *kube) one(arg string) (ref, error) {
	if !strings.Contains(arg, "/") {
		arg = "pod/" + arg
	}
	all, err := k.refs([]string{arg})
	if err != nil {
		return ref{}, err
	}
	return all[0], nil
}

// collection is the path of all objects of a kind in a namespace.
func collection(x *api.Kind, namespace string) string {
	path := "/api/" + x.Version
	if x.Group != "" {
		path = "/apis/" + x.Group + "/" + x.Version
	}
	if x.Namespaced && namespace != "" {
		path += "/namespaces/" + url.PathEscape(namespace)
	}
	return path + "/" + x.Resource
}

// path is that of an object, and of a part of it.
func (k *kube) path(r ref, sub ...string) string {
	p := collection(r.kind, k.namespace) + "/" + url.PathEscape(r.name)
	for _, s := range sub {
		p += "/" + s
	}
	return p
}

// chosen is the query of --selector and --field-selector.
func (k *kube) chosen() url.Values {
	q := url.Values{}
	if s := k.c.String("selector"); s != "" {
		q.Set("labelSelector", s)
	}
	if s := k.c.String("field-selector"); s != "" {
		q.Set("fieldSelector", s)
	}
	return q
}

func withQuery(path string, q url.Values) string {
	if len(q) == 0 {
		return path
	}
	return path + "?" + q.Encode()
}

// object is one whose fields are read by their path.
type object map[string]any

func (o object) at(path ...string) any {
	var v any = map[string]any(o)
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	return v
}

func (o object) str(path ...string) string {
	s, _ := o.at(path...).(string)
	return s
}

func (o object) num(path ...string) int64 {
	n, _ := o.at(path...).(float64)
	return int64(n)
}

func (o object) metadata() map[string]any {
	m, _ := o["metadata"].(map[string]any)
	return m
}

// list gets all objects of a kind that the flags choose.
func (k *kube) list(x *api.Kind, q url.Values) ([]object, error) {
	var l struct{ Items []object }
	if err := k.api.Get(k.ctx, withQuery(collection(x, k.namespace), q), &l); err != nil {
		return nil, err
	}
	for _, o := range l.Items {
		o["apiVersion"], o["kind"] = x.GroupVersion().String(), x.Kind
	}
	return l.Items, nil
}

// listAs gets them as what they are.
func listAs[T any](k *kube, kind, namespace string, q url.Values) ([]T, error) {
	x, err := k.kind(kind)
	if err != nil {
		return nil, err
	}
	var l struct{ Items []T }
	err = k.api.Get(k.ctx, withQuery(collection(x, namespace), q), &l)
	return l.Items, err
}

// patch changes an object.
func (k *kube) patch(r ref, kind string, body []byte, q url.Values, out any, sub ...string) error {
	return k.api.Into(k.ctx, client.Request{Method: "PATCH", Path: withQuery(k.path(r, sub...), q), Type: "application/" + kind, Body: body}, out)
}

// changing is the query of a change.
func (k *kube) changing() url.Values {
	q := url.Values{"fieldManager": {"minirun"}}
	if k.c.Bool("dry-run") {
		q.Set("dryRun", metav1.DryRunAll)
	}
	return q
}

// did says what happened to an object.
func (k *kube) did(r ref, what string) {
	if k.c.Bool("dry-run") {
		what += " (dry run)"
	}
	if k.c.String("output") == "name" {
		what = ""
	}
	fmt.Fprintln(k.u.out, strings.TrimSpace(r.String()+" "+what))
}

// forEach does something with all that was named, and gives all errors.
func (k *kube) forEach(all []ref, f func(r ref) error) error {
	var errs []error
	for _, r := range all {
		var down *client.NotRunningError
		err := f(r)
		if errors.As(err, &down) || k.ctx.Err() != nil {
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// expand replaces kinds without a name by the objects that there are.
func (k *kube) expand(all []ref, q url.Values) (out []ref, err error) {
	for _, r := range all {
		if r.name != "" {
			out = append(out, r)
			continue
		}
		items, err := k.list(r.kind, q)
		if err != nil {
			return nil, err
		}
		for _, o := range items {
			out = append(out, ref{r.kind, o.str("metadata", "name")})
		}
	}
	return out, nil
}

// kubeArguments lets flags of minirun kube stand behind arguments, as users of
// kubectl write them, which the library does not: flags come first, then --, then
// the rest. A second -- is the user's.
func kubeArguments(app *cli.App, args []string) []string {
	if len(args) == 0 {
		return args
	}
	at := 1
	for at < len(args) && strings.HasPrefix(args[at], "-") && args[at] != "--" {
		if takesValue(app.Flags, args[at]) {
			at++
		}
		at++
	}
	if at >= len(args) || args[at] != "kube" {
		return args
	}
	cmd := app.Command("kube")
	at++
	for at < len(args) {
		var sub *cli.Command
		for _, s := range cmd.Subcommands {
			if s.HasName(args[at]) {
				sub = s
			}
		}
		if sub == nil {
			break
		}
		cmd = sub
		at++
	}
	if len(cmd.Subcommands) > 0 {
		return args
	}
	flags, rest := []string{}, []string{}
	for i := at; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--":
			rest = append(rest, args[i:]...)
			i = len(args)
		case len(a) < 2 || a[0] != '-':
			rest = append(rest, a)
		case len(a) > 2 && a[1] != '-' && a[2] != '=' && takesValue(cmd.Flags, a[:2]): // -ojson
			flags = append(flags, a[:2], a[2:])
		case a == "--help" || a == "-h":
			return append(slices.Clone(args[:at]), a)
		default:
			flags = append(flags, a)
			if takesValue(cmd.Flags, a) {
				if i++; i == len(args) { // the library says what is missing, as long as nothing follows
					return append(slices.Clone(args[:at]), flags...)
				}
				flags = append(flags, args[i])
			}
		}
	}
	out := append(slices.Clone(args[:at]), flags...)
	return append(append(out, "--"), rest...)
}

// takesValue tells whether the next argument belongs to a flag. Of letters that
// are joined the last one decides.
func takesValue(flags []cli.Flag, arg string) bool {
	if strings.Contains(arg, "=") {
		return false
	}
	name := strings.TrimLeft(arg, "-")
	if !strings.HasPrefix(arg, "--") && len(name) > 1 {
		known := slices.ContainsFunc(flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), name) })
		if !known {
			name = name[len(name)-1:]
		}
	}
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			d, ok := f.(cli.DocGenerationFlag)
			return ok && d.TakesValue()
		}
	}
	return false
}

// before gives the arguments up to --, and those behind it.
func before(args []string) (own, behind []string, dash bool) {
	i := slices.Index(args, "--")
	if i < 0 {
		return args, nil, false
	}
	return args[:i], args[i+1:], true
}

// openInput opens a file, or standard input for "-".
func openInput(u *ui, path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(u.in), nil
	}
	return os.Open(path)
}
