package integration

import "fmt"

// Objects in YAML, of which a test says what matters to it, in flow style. Their
// containers are of the image base, and those of pods are killed when they shall end.

func containerYAML(name, fields string) string {
	return fmt.Sprintf("{name: %s, image: base, imagePullPolicy: Never, %s}", name, fields)
}

// podSpec is that of a pod with one container. The fields are those of the pod beside
// it, and those of the container.
func podSpec(fields, ofContainer string) string {
	return fmt.Sprintf("{terminationGracePeriodSeconds: 0, containers: [%s], %s}", containerYAML("c", ofContainer), fields)
}

// hostDir is the volume v of a pod.
func hostDir(path string) string { return "volumes: [{name: v, hostPath: {path: " + path + "}}]" }

func podYAML(name, spec string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s, labels: {app: %[1]s}}\nspec: %s\n", name, spec)
}

// workloadYAML is a Deployment or another kind whose pods have its name as label app.
func workloadYAML(kind, name, fields, spec string) string {
	return fmt.Sprintf("---\napiVersion: apps/v1\nkind: %s\nmetadata: {name: %s}\nspec: {selector: {matchLabels: {app: %[2]s}}, template: {metadata: {labels: {app: %[2]s}}, spec: %[4]s}, %[3]s}\n", kind, name, fields, spec)
}

func jobYAML(name, fields, spec string) string {
	return fmt.Sprintf("---\napiVersion: batch/v1\nkind: Job\nmetadata: {name: %s}\nspec: {template: {spec: %[3]s}, %[2]s}\n", name, fields, spec)
}

// serviceYAML leads from port 80 to port 8080 of what has its name as label app.
func serviceYAML(name string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {selector: {app: %[1]s}, ports: [{port: 80, targetPort: 8080}]}\n", name)
}
