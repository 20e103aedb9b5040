#!/bin/sh
sed -i 's/listen 8080/listen 80/' /etc/nginx/nginx.conf
