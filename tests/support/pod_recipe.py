"""A recipe with all the words of a pod, and the objects that it refers to in the file k8s.yaml."""

POD_RECIPE = b"""\
apiVersion: warmstart/v1alpha1
name: app
container:
  image: a
  envFrom: [{configMapRef: {name: conf}, prefix: A_}, {secretRef: {name: db, optional: true}}]
  env:
    - {name: A, valueFrom: {configMapKeyRef: {name: conf, key: LEVEL}}}
    - {name: B, valueFrom: {secretKeyRef: {name: db, key: password}}}
    - {name: C, valueFrom: {fieldRef: {fieldPath: "metadata.labels['a']"}}}
    - {name: D, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    - {name: E, valueFrom: {fileKeyRef: {volumeName: v, path: a, key: b}}}
    - {name: F, value: $(A)}
  volumeMounts: [{name: v, mountPath: /v, subPathExpr: $(A)/b}, {name: w, mountPath: /w/, readOnly: true}]
  securityContext: {capabilities: {drop: [all]}, seccompProfile: {type: RuntimeDefault}, \
    appArmorProfile: {type: RuntimeDefault}}
  readinessProbe: {grpc: {port: 1}}
volumes:
  - {name: v, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: w, projected: {sources: [{configMap: {name: conf, items: [{key: LEVEL, path: a/b, mode: 0400}]}}, \
      {secret: {name: db}}, {serviceAccountToken: {path: t}}, {downwardAPI: {items: [{path: name, fieldRef: \
      {fieldPath: metadata.name}}]}}]}}
securityContext: {fsGroup: 1, runAsUser: 5, supplementalGroups: [6]}
initContainers: [{name: wait, tty: true}, {name: i, image: b, env: [{name: A, value: x}]}]
build:
  objects: [k8s.yaml, {kind: ConfigMap, metadata: {name: conf}, data: {LEVEL: a}, binaryData: {b: AAEC}}]
  secrets: {db: {password: x, user: }}
  fields: {v/a/b: x, status.podIP: 10.0.0.1}
  services: [{name: s, from: k8s.yaml, container: c}, {name: t, aliases: [u], container: {image: c, \
    readinessProbe: {tcpSocket: {port: 1}}, volumeMounts: [{name: x, mountPath: /x}]}, volumes: [{name: x}]}]
  init: [{container: i}]
late: [A]
onDifference: warn
afterRestore: [{httpGet: {port: 1, method: POST}}, {signal: SIGHUP}]
image: {name: b:warm}
"""

OBJECTS = b"""\
apiVersion: v1
kind: List
items:
  - {kind: ConfigMap, metadata: {name: other}, data: {A: b}, binaryData: {c: AAEC}}
  - {kind: Secret, metadata: {name: db}, data: {password: YQ==}, stringData: {user: a}}
---
kind: StatefulSet
metadata: {name: s, namespace: n}
spec:
  serviceName: s
  template:
    metadata: {labels: {a: b}}
    spec:
      securityContext: {fsGroup: 1, runAsUser: 2}
      containers: [{name: c, image: d, ports: [{name: p, containerPort: 1}], volumeMounts: [{name: e, mountPath: /e}], \
        livenessProbe: {exec: {command: [a]}, failureThreshold: 1}}]
      volumes: [{name: f, hostPath: {path: /}}]
  volumeClaimTemplates: [{metadata: {name: e}}]
---
{kind: Service, metadata: {name: s}, spec: {selector: {a: b}, ports: [{port: 2, targetPort: p}]}}
"""
