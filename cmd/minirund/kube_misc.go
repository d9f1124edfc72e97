package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/client"
	"github.com/minirun/minirun/orchestrate/view"
	"github.com/urfave/cli/v2"
)

// get is a request for a path.
func get(path string) client.Request { return client.Request{Method: "GET", Path: path} }

func kubeLabel(u *ui) *cli.Command {
	return kubeMetadata(u, "label", "labels", "give objects labels: NAME=VALUE, or NAME- to remove one", "labeled", "unlabeled")
}

func kubeAnnotate(u *ui) *cli.Command {
	return kubeMetadata(u, "annotate", "annotations", "give objects annotations: NAME=VALUE, or NAME- to remove one", "annotated", "annotated")
}

func kubeMetadata(u *ui, name, field, usage, done, removed string) *cli.Command {
	return kubeAction(u, &cli.Command{
		Name: name, Usage: usage, ArgsUsage: "KIND NAME... | KIND/NAME... | KIND --all  NAME=VALUE... NAME-...",
		Flags: []cli.Flag{
			namespaceFlag(), selectorFlag(), dryRunFlag(), outputFlag("`FORMAT` is name"),
			&cli.BoolFlag{Name: "overwrite", Usage: "change what there is"},
			&cli.BoolFlag{Name: "all", Usage: "all objects of the kind in the namespace"},
		},
	}, 1, -1, func(k *kube) error {
		var words []string
		change := map[string]any{}
		for _, a := range k.c.Args().Slice() {
			key, value, ok := strings.Cut(a, "=")
			switch {
			case ok && key != "":
				change[key] = value
			case !ok && strings.HasSuffix(a, "-") && len(words) > 0 && len(a) > 1:
				change[strings.TrimSuffix(a, "-")] = nil
			default:
				words = append(words, a)
			}
		}
		if len(change) == 0 {
			return k.usage("say what to change: NAME=VALUE or NAME-")
		}
		all, err := k.refs(words)
		if err != nil {
			return err
		}
		if err := k.chosenOnly(all); err != nil {
			return err
		}
		if all, err = k.expand(all, k.chosen()); err != nil {
			return err
		}
		return k.forEach(all, func(r ref) error {
			var o object
			if err := k.api.Get(k.ctx, k.path(r), &o); err != nil {
				return err
			}
			have, _ := o.at("metadata", field).(map[string]any)
			what := removed
			for key, v := range change {
				if v == nil {
					continue
				}
				what = done
				if old, ok := have[key]; ok && old != v && !k.c.Bool("overwrite") {
					return fmt.Errorf("%s has %s=%v already: --overwrite changes it", r, key, old)
				}
			}
			text, err := json.Marshal(object{"metadata": object{field: change}})
			if err != nil {
				return err
			}
			var now object
			if err := k.patch(r, "merge-patch+json", text, k.changing(), &now); err != nil {
				return err
			}
			if now.str("metadata", "resourceVersion") == o.str("metadata", "resourceVersion") && !k.c.Bool("dry-run") {
				what = "not " + what
			}
			k.did(r, what)
			return nil
		})
	})
}

func kubeRun(u *ui) *cli.Command {
	return kubeAction(u, &cli.Command{
		Name: "run", Usage: "run one pod with one container", ArgsUsage: "NAME --image IMAGE [-- COMMAND [ARGUMENT...]]",
		Flags: []cli.Flag{
			namespaceFlag(), dryRunFlag(), outputFlag("`FORMAT` is yaml, json or name"),
			&cli.StringFlag{Name: "image", Usage: "run `IMAGE`"},
			&cli.StringSliceFlag{Name: "env", Usage: "set `NAME=VALUE`. Repeatable"},
			&cli.StringSliceFlag{Name: "labels", Usage: "give the pod `NAME=VALUE[,...]` (default: run=NAME)"},
			&cli.StringFlag{Name: "port", Usage: "the `PORT` that it listens on"},
			&cli.StringFlag{Name: "restart", Value: "Always", Usage: "`POLICY` is Always, OnFailure or Never"},
			&cli.StringFlag{Name: "image-pull-policy", Usage: "`POLICY` is Always, IfNotPresent or Never"},
			&cli.BoolFlag{Name: "command", Usage: "what stands behind -- replaces the image's entry point, not its arguments"},
			&cli.BoolFlag{Name: "stdin", Aliases: []string{"i"}, Usage: "keep standard input open"},
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give the program a terminal"},
		},
	}, 1, -1, func(k *kube) error {
		own, command, _ := before(k.c.Args().Slice())
		image := k.c.String("image")
		if len(own) != 1 || image == "" {
			return k.usage("want NAME --image IMAGE [-- COMMAND [ARGUMENT...]]")
		}
		p := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Name: own[0], Labels: map[string]string{"run": own[0]}}}
		if list := k.c.StringSlice("labels"); len(list) > 0 {
			p.Labels = map[string]string{}
			for l := range strings.SplitSeq(strings.Join(list, ","), ",") {
				name, value, ok := strings.Cut(l, "=")
				if !ok {
					return k.usage("--labels %q: want NAME=VALUE", l)
				}
				p.Labels[name] = value
			}
		}
		c := corev1.Container{Name: own[0], Image: image, Stdin: k.c.Bool("stdin"), TTY: k.c.Bool("tty"), ImagePullPolicy: corev1.PullPolicy(k.c.String("image-pull-policy"))}
		if k.c.Bool("command") {
			c.Command = command
		} else {
			c.Args = command
		}
		for _, e := range k.c.StringSlice("env") {
			name, value, ok := strings.Cut(e, "=")
			if !ok {
				return k.usage("--env %q: want NAME=VALUE", e)
			}
			c.Env = append(c.Env, corev1.EnvVar{Name: name, Value: value})
		}
		if v := k.c.String("port"); v != "" {
			n, err := strconv.ParseUint(v, 10, 16)
			if err != nil {
				return k.usage("--port %q: want a number", v)
			}
			c.Ports = []corev1.ContainerPort{{ContainerPort: int32(n)}}
		}
		p.Spec = corev1.PodSpec{Containers: []corev1.Container{c}, RestartPolicy: corev1.RestartPolicy(k.c.String("restart"))}
		return k.createFrom(p)
	})
}

// createFrom creates an object that the command line described.
func (k *kube) createFrom(obj any) error {
	text, err := json.Marshal(obj)
	if err != nil {
		return err
	}
	all, err := k.registry.Decode(text)
	if err != nil {
		return err
	}
	return k.createOne(&all[0])
}

func kubeExpose(u *ui) *cli.Command {
	return kubeAction(u, &cli.Command{
		Name: "expose", Usage: "make a service for the pods of a workload, of a pod or of a service", ArgsUsage: "KIND NAME | KIND/NAME",
		Flags: []cli.Flag{
			namespaceFlag(), dryRunFlag(), outputFlag("`FORMAT` is yaml, json or name"),
			&cli.StringFlag{Name: "name", Usage: "`NAME` of the service (default: the object's)"},
			&cli.StringFlag{Name: "port", Usage: "`PORT` of the service (default: the container's)"},
			&cli.StringFlag{Name: "target-port", Usage: "`PORT` of the container, a number or a name (default: the service's)"},
			&cli.StringFlag{Name: "protocol", Value: "TCP", Usage: "`PROTOCOL` is TCP, UDP or SCTP"},
			&cli.StringFlag{Name: "type", Value: "ClusterIP", Usage: "`TYPE` is ClusterIP, NodePort or LoadBalancer"},
		},
	}, 1, 2, (*kube).expose)
}

func (k *kube) expose() error {
	all, err := k.refs(k.c.Args().Slice())
	if err != nil {
		return err
	}
	if len(all) != 1 || all[0].name == "" {
		return k.usage("want one object: KIND NAME or KIND/NAME")
	}
	r := all[0]
	var o object
	if err := k.api.Get(k.ctx, k.path(r), &o); err != nil {
		return err
	}
	selector, _ := o.at("spec", "selector", "matchLabels").(map[string]any)
	switch r.kind.Kind {
	case "Service":
		selector, _ = o.at("spec", "selector").(map[string]any)
	case "Pod":
		selector, _ = o.at("metadata", "labels").(map[string]any)
	}
	if len(selector) == 0 {
		return fmt.Errorf("%s has no labels that a service could select by", r)
	}
	name := cmp.Or(k.c.String("name"), r.name)
	ports := []object{}
	port := func(number, target any) { // of a service
		p := object{"port": number, "targetPort": target, "protocol": k.c.String("protocol")}
		if len(ports) > 0 {
			p["name"] = "port-" + strconv.Itoa(len(ports)+1)
			ports[0]["name"] = "port-1"
		}
		ports = append(ports, p)
	}
	target := func(otherwise any) any {
		t := k.c.String("target-port")
		if n, err := strconv.Atoi(t); err == nil {
			return n
		}
		if t != "" {
			return t
		}
		return otherwise
	}
	if v := k.c.String("port"); v != "" {
		n, err := strconv.ParseUint(v, 10, 16)
		if err != nil {
			return k.usage("--port %q: want a number", v)
		}
		port(n, target(n))
	} else {
		items, _ := o.at(append(templatePath(r.kind.Kind), "containers")...).([]any)
		for _, c := range items {
			m, _ := c.(map[string]any)
			list, _ := m["ports"].([]any)
			for _, p := range list {
				n := object(p.(map[string]any)).num("containerPort")
				port(n, target(n))
			}
		}
	}
	if len(ports) == 0 {
		return k.usage("no container says which port it listens on: give --port")
	}
	return k.createFrom(object{
		"apiVersion": "v1", "kind": "Service", "metadata": object{"name": name, "labels": o.at("metadata", "labels")},
		"spec": object{"selector": selector, "ports": ports, "type": k.c.String("type")},
	})
}

func kubeEvents(u *ui) *cli.Command {
	return kubeAction(u, &cli.Command{
		Name: "events", Usage: "list what has happened",
		Flags: []cli.Flag{
			namespaceFlag(), allNamespacesFlag(),
			&cli.StringFlag{Name: "for", Usage: "to `KIND/NAME` alone"},
			&cli.StringSliceFlag{Name: "types", Usage: "events of `TYPE` alone: Normal or Warning. Repeatable"},
			&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "go on with what happens"},
			&cli.StringFlag{Name: "format", Value: "table", Usage: "`FORMAT` is table or json"},
		},
	}, 0, 0, (*kube).events)
}

func (k *kube) events() error {
	asJSON, err := wantsJSON(k.c)
	if err != nil {
		return err
	}
	q := url.Values{}
	if f := k.c.String("for"); f != "" {
		r, err := k.one(f)
		if err != nil {
			return err
		}
		q.Set("fieldSelector", "involvedObject.kind="+r.kind.Kind+",involvedObject.name="+r.name)
	}
	types := k.c.StringSlice("types")
	wanted := func(e *corev1.Event) bool {
		return len(types) == 0 || slices.ContainsFunc(types, func(t string) bool { return strings.EqualFold(t, e.Type) })
	}
	x, err := k.kind("events")
	if err != nil {
		return err
	}
	var l corev1.EventList
	if err := k.api.Get(k.ctx, withQuery(collection(x, k.namespace), q), &l); err != nil {
		return err
	}
	l.Items = slices.DeleteFunc(l.Items, func(e corev1.Event) bool { return !wanted(&e) })
	view.SortEvents(l.Items)
	if asJSON {
		if l.Items == nil {
			l.Items = []corev1.Event{}
		}
		return k.u.json(l.Items)
	}
	rows := &view.Rows{W: k.u.out}
	head := []string{"LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"}
	if k.namespace == "" {
		head = slices.Insert(head, 0, "NAMESPACE")
	}
	line := func(e *corev1.Event) []string {
		out := view.EventLine(e, time.Now())
		if k.namespace == "" {
			out = slices.Insert(out, 0, e.Namespace)
		}
		return out
	}
	lines := [][]string{head}
	for i := range l.Items {
		lines = append(lines, line(&l.Items[i]))
	}
	if len(l.Items) == 0 && !k.c.Bool("watch") {
		fmt.Fprintln(k.u.err, "No events found")
		return nil
	}
	if err := rows.Lines(lines...); err != nil || !k.c.Bool("watch") {
		return err
	}
	q.Set("watch", "true")
	q.Set("resourceVersion", l.ResourceVersion)
	err = k.api.Watch(k.ctx, withQuery(collection(x, k.namespace), q), "", func(e client.Event) (bool, error) {
		var one corev1.Event
		if err := json.Unmarshal(e.Object, &one); err != nil || e.Type == "DELETED" || !wanted(&one) {
			return false, err
		}
		return false, rows.Lines(line(&one))
	})
	if k.ctx.Err() != nil {
		return nil
	}
	return err
}

func kubeTop(u *ui) *cli.Command {
	return kubeAction(u, &cli.Command{
		Name: "top", Usage: "show what pods, or the node, use of processor and memory", ArgsUsage: "pods [NAME...] | nodes",
		Flags: []cli.Flag{
			namespaceFlag(), allNamespacesFlag(), selectorFlag(),
			&cli.BoolFlag{Name: "containers", Usage: "a line for each container"},
			&cli.StringFlag{Name: "sort-by", Usage: "the largest first: `WHAT` is cpu or memory"},
			&cli.StringFlag{Name: "format", Value: "table", Usage: "`FORMAT` is table or json"},
		},
	}, 1, -1, (*kube).top)
}

// used is a line of top.
type used struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Container string `json:"container,omitempty"`
	MilliCPU  int64  `json:"milliCPU"`
	Memory    int64  `json:"memory"`
}

type usageItem struct {
	Metadata   metav1.ObjectMeta
	Usage      corev1.ResourceList
	Containers []struct {
		Name  string
		Usage corev1.ResourceList
	}
}

func (k *kube) top() error {
	asJSON, err := wantsJSON(k.c)
	if err != nil {
		return err
	}
	x, err := k.kind(k.c.Args().First())
	if err != nil {
		return err
	}
	if x.Resource != "pods" && x.Resource != "nodes" {
		return k.usage("want pods or nodes")
	}
	path := "/apis/metrics.k8s.io/v1beta1/"
	if x.Namespaced && k.namespace != "" {
		path += "namespaces/" + url.PathEscape(k.namespace) + "/"
	}
	var l struct{ Items []usageItem }
	if names := k.c.Args().Tail(); len(names) > 0 {
		for _, n := range names {
			var one usageItem
			if err := k.api.Get(k.ctx, path+x.Resource+"/"+url.PathEscape(n), &one); err != nil {
				return err
			}
			l.Items = append(l.Items, one)
		}
	} else if err := k.api.Get(k.ctx, withQuery(path+x.Resource, k.chosen()), &l); err != nil {
		return err
	}
	all := []used{}
	for _, i := range l.Items {
		u := used{Namespace: i.Metadata.Namespace, Name: i.Metadata.Name, MilliCPU: i.Usage.Cpu().MilliValue(), Memory: i.Usage.Memory().Value()}
		for _, c := range i.Containers {
			cpu, memory := c.Usage.Cpu().MilliValue(), c.Usage.Memory().Value()
			if k.c.Bool("containers") {
				all = append(all, used{u.Namespace, u.Name, c.Name, cpu, memory})
			}
			u.MilliCPU, u.Memory = u.MilliCPU+cpu, u.Memory+memory
		}
		if !k.c.Bool("containers") || x.Resource == "nodes" {
			all = append(all, u)
		}
	}
	switch s := k.c.String("sort-by"); s {
	case "cpu":
		slices.SortStableFunc(all, func(a, b used) int { return cmp.Compare(b.MilliCPU, a.MilliCPU) })
	case "memory":
		slices.SortStableFunc(all, func(a, b used) int { return cmp.Compare(b.Memory, a.Memory) })
	case "":
	default:
		return k.usage("--sort-by %q, want cpu or memory", s)
	}
	if asJSON {
		return k.u.json(all)
	}
	if len(all) == 0 {
		k.nothing(x)
		return nil
	}
	if x.Resource == "nodes" {
		return k.topNodes(all)
	}
	head := []string{"NAME", "CPU(cores)", "MEMORY(bytes)"}
	if k.c.Bool("containers") {
		head = []string{"POD", "NAME", "CPU(cores)", "MEMORY(bytes)"}
	}
	if k.namespace == "" {
		head = slices.Insert(head, 0, "NAMESPACE")
	}
	lines := [][]string{head}
	for _, u := range all {
		line := []string{u.Name, fmt.Sprintf("%dm", u.MilliCPU), fmt.Sprintf("%dMi", u.Memory>>20)}
		if k.c.Bool("containers") {
			line = slices.Insert(line, 1, u.Container)
		}
		if k.namespace == "" {
			line = slices.Insert(line, 0, u.Namespace)
		}
		lines = append(lines, line)
	}
	return (&view.Rows{W: k.u.out}).Lines(lines...)
}

// topNodes also says how much of the node that is.
func (k *kube) topNodes(all []used) error {
	nodes, err := listAs[corev1.Node](k, "nodes", "", nil)
	if err != nil {
		return err
	}
	lines := [][]string{{"NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"}}
	for _, u := range all {
		cpu, memory := "<unknown>", "<unknown>"
		for i := range nodes {
			if n := &nodes[i]; n.Name == u.Name {
				share := func(part int64, whole *resource.Quantity, scale int64) string {
					if v := whole.Value(); v > 0 {
						return fmt.Sprintf("%d%%", part*100/(v*scale))
					}
					return "<unknown>"
				}
				cpu, memory = share(u.MilliCPU, n.Status.Allocatable.Cpu(), 1000), share(u.Memory, n.Status.Allocatable.Memory(), 1)
			}
		}
		lines = append(lines, []string{u.Name, fmt.Sprintf("%dm", u.MilliCPU), cpu, fmt.Sprintf("%dMi", u.Memory>>20), memory})
	}
	return (&view.Rows{W: k.u.out}).Lines(lines...)
}

func kubeWait(u *ui) *cli.Command {
	return kubeAction(u, &cli.Command{
		Name: "wait", Usage: "wait until something is true of objects", ArgsUsage: "KIND NAME... | KIND/NAME... | KIND --all",
		Flags: []cli.Flag{
			namespaceFlag(), selectorFlag(), timeoutFlag(30 * time.Second),
			&cli.StringFlag{Name: "for", Usage: "`WHAT` is delete, create, condition=NAME[=VALUE] or jsonpath={PATH}[=VALUE]"},
			&cli.BoolFlag{Name: "all", Usage: "all objects of the kind in the namespace"},
		},
	}, 1, -1, (*kube).wait)
}

// chosenOnly refuses a kind without a word about which objects of it.
func (k *kube) chosenOnly(all []ref) error {
	for _, r := range all {
		if r.name == "" && !k.c.Bool("all") && k.c.String("selector") == "" {
			return k.usage("say which objects: names, --selector or --all")
		}
	}
	return nil
}

func (k *kube) wait() error {
	what := k.c.String("for")
	holds, err := k.condition(what)
	if err != nil {
		return err
	}
	all, err := k.refs(k.c.Args().Slice())
	if err != nil {
		return err
	}
	if err := k.chosenOnly(all); err != nil {
		return err
	}
	if all, err = k.expand(all, k.chosen()); err != nil {
		return err
	}
	if len(all) == 0 && what != "delete" {
		return errors.New("no matching resources found")
	}
	ctx, cancel := k.timeout()
	defer cancel()
	return k.forEach(all, func(r ref) error {
		err := k.until(ctx, r, func(o object) (bool, error) {
			if o == nil && what != "delete" && what != "create" {
				return false, fmt.Errorf("%s does not exist", r)
			}
			return holds(o)
		})
		if errors.Is(err, errTimeout) {
			return fmt.Errorf("%w on %s", err, r)
		}
		if err == nil {
			if what == "delete" {
				k.did(r, "condition met")
			} else {
				k.did(r, "condition met")
			}
		}
		return err
	})
}

// condition makes a function of --for.
func (k *kube) condition(what string) (func(object) (bool, error), error) {
	kind, rest, _ := strings.Cut(what, "=")
	switch {
	case what == "delete":
		return func(o object) (bool, error) { return o == nil, nil }, nil
	case what == "create":
		return func(o object) (bool, error) { return o != nil, nil }, nil
	case kind == "condition" && rest != "":
		name, want, ok := strings.Cut(rest, "=")
		if !ok {
			want = "true"
		}
		return func(o object) (bool, error) {
			list, _ := o.at("status", "conditions").([]any)
			for _, c := range list {
				m, _ := c.(map[string]any)
				t, _ := m["type"].(string)
				s, _ := m["status"].(string)
				if !strings.EqualFold(t, name) {
					continue
				}
				// One that was found true of an older spec says nothing.
				if g := object(m).num("observedGeneration"); g > 0 && g < o.num("metadata", "generation") {
					continue
				}
				return strings.EqualFold(s, want), nil
			}
			return false, nil
		}, nil
	case kind == "jsonpath" && rest != "":
		template, want, ok := rest, "", false
		if i := strings.LastIndex(rest, "}="); i >= 0 {
			template, want, ok = rest[:i+1], rest[i+2:], true
		}
		template = strings.Trim(template, "'")
		if _, err := view.JSONPath(template, map[string]any{}); err != nil {
			return nil, k.usage("--for: %v", err)
		}
		return func(o object) (bool, error) {
			got, err := view.JSONPath(template, map[string]any(o))
			if err != nil {
				return false, nil // an index that is not there yet
			}
			return ok && got == want || !ok && got != "", nil
		}, nil
	}
	return nil, k.usage("--for %q, want delete, create, condition=NAME[=VALUE] or jsonpath={PATH}[=VALUE]", what)
}
